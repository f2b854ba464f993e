"""Rows, the table's file, and the rule by which rows speak for a use."""

from __future__ import annotations

import json

import numpy as np
import pytest
from edgec.compiler.emit.conformance.legality import Legality
from edgec.compiler.emit.conformance.measure import Bounds, verdict_of, worst
from edgec.compiler.emit.conformance.op_class import ClassRule, Use
from edgec.compiler.emit.conformance.table import ConformanceTable, DeviceReport, Row, load_reports

RULE = ClassRule(frozenset({"rows", "size"}), {})


def row(verdict="right", place="here", lowering="norm", error=0.001, **shape):
    return Row(place, lowering, shape, verdict, {"error": error})


def problem(rows, /, place="here", lowering="norm", **shape):
    return Legality(place, rows, RULE).problem(Use(lowering, tuple(sorted(shape.items())), "layers.0.norm"))


RIGHT = [row(rows=r, size=s) for r in (1, 64) for s in (32, 256)]


def test_measured_and_between_is_taken():
    assert problem(RIGHT, rows=64, size=256) is None
    assert problem(RIGHT, rows=5, size=100) is None


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"rows": 65, "size": 32}, "with rows from 1 to 64, here rows is 65"),
        ({"rows": 1, "size": 31}, "with size from 32 to 256, here size is 31"),
        ({"lowering": "conv", "rows": 1}, "was never run on here in this form"),
        ({"rows": 1, "size": 32, "rank": 4}, "was never run on here in this form"),
        ({"rows": 1}, "was never run on here in this form"),
        ({"place": "elsewhere", "rows": 1, "size": 32}, "was never run on elsewhere"),
    ],
)
def test_beyond_is_not_taken(asked, why):
    assert why in (problem(RIGHT, **asked) or "")


@pytest.mark.parametrize(
    ("rows", "asked", "name"),
    [
        (RIGHT, {"rows": 65, "size": 32}, "rows"),
        (RIGHT, {"rows": 1, "size": 31}, "size"),
        (RIGHT, {"rows": 5, "size": 100}, None),
        (RIGHT, {"rows": 1, "size": 32, "rank": 4}, None),
        ([*RIGHT, row("wrong", rows=16, size=64)], {"rows": 65, "size": 32}, None),
    ],
)
def test_the_number_that_lies_outside_is_named_where_it_is_the_only_problem(rows, asked, name):
    judge = Legality("here", rows, RULE)
    assert judge.out_of_range(Use("norm", tuple(sorted(asked.items())), "layers.0.norm")) == name


def test_one_wrong_row_leaves_only_what_was_measured():
    rows = [*RIGHT, row("wrong", rows=16, size=64)]
    assert problem(rows, rows=64, size=256) is None
    assert "computes wrong numbers at rows 16, size 64" in (problem(rows, rows=16, size=64) or "")
    assert "only the shapes that were run are taken" in (problem(rows, rows=5, size=100) or "")


def test_the_table_survives_writing_and_reading(tmp_path):
    nan = float("nan")
    rows = [row(rows=1, size=32), row(rank=4, rows=2), Row("here", "norm", {"rows": 3}, "crash", {"error": nan})]
    table = ConformanceTable(rows, {"here": {"engine": "1"}}, [DeviceReport("fp16", ("v75",), True, "there", "so")])
    table.save(tmp_path / "t.json")
    again = ConformanceTable.load(tmp_path / "t.json")
    assert sorted(map(repr, again.rows)) == sorted(map(repr, rows))
    assert (again.tools, again.reports, load_reports(tmp_path / "t.json")) == (
        table.tools,
        table.reports,
        table.reports,
    )
    assert '[4, 2, null, "right", 0.001]' in (tmp_path / "t.json").read_text()  # a row is a line; rank, rows, size
    table.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "t.json").read_bytes()


def test_a_table_of_another_version_is_not_guessed_at(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"version": 1}))
    with pytest.raises(ValueError, match="version 1, expected 2"):
        ConformanceTable.load(tmp_path / "t.json")


def test_new_rows_replace_those_of_their_key_and_what_the_run_says():
    table = ConformanceTable([row(rows=1), row(place="there", rows=1), row(lowering="conv", size=1)], {}, [])
    table.put("here", [row("wrong", rows=1), row(rows=2)], {"engine": "2"})
    found = {(r.place, r.lowering, *r.shape.values(), r.verdict) for r in table.rows}
    kept = {("there", "norm", 1, "right"), ("here", "conv", 1, "right")}
    assert found == kept | {("here", "norm", 1, "wrong"), ("here", "norm", 2, "right")}
    table.put("here", [row(rows=3)], {}, replaces=lambda r: r.lowering == "norm")
    assert {(r.place, r.lowering, *r.shape.values()) for r in table.rows} == {
        ("there", "norm", 1), ("here", "conv", 1), ("here", "norm", 3),
    }  # fmt: skip
    assert table.summary()["here"] == {"right": 2, "rejected": 0, "wrong": 0, "crash": 0}


def test_of_rows_that_share_a_shape_the_worst_is_kept():
    rows = [row(rows=1), row(rows=1, error=0.002), row("unended", rows=2), row("wrong", rows=3), row("crash", rows=3)]
    assert [(r.verdict, r.figures["error"]) for r in worst(rows)] == [("right", 0.002), ("crash", 0.001)]


def test_a_verdict_that_passes_wrong_numbers_would_be_worthless():
    y = np.linspace(-1, 1, 100, dtype=np.float32)

    def verdict(got):
        return verdict_of({"y": got}, {"y": y}, Bounds(0.01, 0.9995))[0]

    assert verdict(y.astype(np.float16)) == "right"
    for wrong in (y * 1000, y * 1.02, np.roll(y, 1), y * np.nan, y[:50], y * 0):
        assert verdict(wrong) == "wrong"
