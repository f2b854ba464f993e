"""The rule of the conformance table, and that the table tells what the engine does."""

from __future__ import annotations

import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.targets.qnn.conformance.cases import grid
from edgec.targets.qnn.conformance.legality import Legality, check_uses
from edgec.targets.qnn.conformance.measure import Runner, judge
from edgec.targets.qnn.conformance.table import Report, Row, Table
from edgec.targets.qnn.lower.lowering import Use


def row(verdict="right", arch="v75", lowering="norm", **shape):
    return Row(arch, lowering, shape, verdict, 0.001, 1.0)


def use(lowering="norm", **shape):
    return Use(lowering, tuple(sorted(shape.items())), "layers.0.norm")


def problem(rows, asked, arch="v75"):
    return Legality(arch, Table(rows, {}, [])).problem(asked)


RIGHT = [row(rows=r, size=s) for r in (1, 64) for s in (32, 256)]


def test_measured_and_between_is_taken():
    assert problem(RIGHT, use(rows=64, size=256)) is None
    assert problem(RIGHT, use(rows=5, size=100)) is None


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (use(rows=65, size=32), "with rows from 1 to 64, here rows is 65"),
        (use(rows=1, size=31), "with size from 32 to 256, here size is 31"),
        (use(lowering="conv", rows=1), "was never run on v75 in this form"),
        (use(rows=1, size=32, rank=4), "was never run on v75 in this form"),
    ],
)
def test_beyond_is_not_taken(asked, why):
    assert why in (problem(RIGHT, asked) or "")


def test_another_architecture_knows_nothing():
    assert "was never run on v79" in (problem(RIGHT, use(rows=1, size=32), "v79") or "")


def test_one_wrong_row_leaves_only_what_was_measured():
    rows = [*RIGHT, row("wrong", rows=16, size=64)]
    assert problem(rows, use(rows=64, size=256)) is None
    assert "computes wrong numbers at rows 16, size 64" in (problem(rows, use(rows=16, size=64)) or "")
    assert "only the shapes that were run are taken" in (problem(rows, use(rows=5, size=100)) or "")


def test_the_diagnostic_names_the_op_and_the_way_out(golden_error):
    asked = use("rms_norm", rows=1_000_000, size=256)
    with pytest.raises(PlanError) as caught:
        check_uses([asked, asked], 75)
    golden_error("E0640", caught.value)


@pytest.mark.parametrize(
    ("lowering", "shape", "ways"),
    [
        ("op.Add", {"elements": 10**9, "rank": 2}, []),
        ("rotary", {"tokens": 10**6}, ["choose other buckets"]),
        ("matmul_nbits", {"bits": 4, "tokens": 10**6}, ["choose other buckets", "another weight format"]),
        ("u8.linear", {"weights": "int4"}, ["another weight format", "leave its activations in fp16"]),
    ],
)
def test_the_help_offers_what_changes_the_use(lowering, shape, ways):
    with pytest.raises(PlanError) as caught:
        check_uses([use(lowering, **shape)], 79)
    first, *between, last = (caught.value.diagnostics[0].help or "").replace(", or ", ", ").split(", ")
    assert first.startswith("`place (device = cpu) on ")
    assert between == ways
    assert last == "extend the table: `python -m edgec.targets.qnn.conformance.measure --arch v79`"


def test_the_table_survives_writing_and_reading(tmp_path):
    rows = [row(rows=1, size=32), row("crash", rows=2, size=32)]
    table = Table(rows, {"v75": {"onnxruntime": "1"}}, [Report("fp16", ("v75",), True, "there", "so")])
    table.rows[1] = Row("v75", "norm", {"rows": 2, "size": 32}, "crash", float("nan"), float("nan"))
    table.save(tmp_path / "t.json")
    again = Table.load(tmp_path / "t.json")
    assert again.rows[0] == table.rows[0]
    assert repr(again.rows[1]) == repr(table.rows[1])
    assert (again.tools, again.reports) == (table.tools, table.reports)


def test_rows_are_replaced_by_architecture_or_by_lowering():
    table = Table([row(rows=1), row(arch="v79", rows=1), row(lowering="conv", size=1)], {}, [])
    table.replace("v75", [row(rows=2)], {}, partly=True)
    assert [(r.arch, r.lowering) for r in table.rows] == [("v79", "norm"), ("v75", "conv"), ("v75", "norm")]
    table.replace("v75", [row(rows=3)], {})
    assert [(r.arch, r.lowering) for r in table.rows] == [("v79", "norm"), ("v75", "norm")]


def test_the_table_in_the_repository_covers_every_architecture_and_says_what_is_wrong():
    table = Table.load()
    assert set(table.tools) == {"v69", "v73", "v75", "v79", "v81"}
    wrong = {(r.lowering, r.shape["tokens"]) for r in table.rows if r.arch == "v75" and r.verdict == "wrong"}
    assert ("raw.rms_norm", 16) in wrong
    assert not [r for r in table.rows if r.lowering == "rms_norm" and r.arch == "v75" and r.verdict != "right"]
    assert all(report.source.startswith("https://") for report in table.reports)


def test_a_judge_that_passes_wrong_numbers_would_be_worthless():
    import numpy as np

    y = np.linspace(-1, 1, 100, dtype=np.float32)
    assert judge({"y": y.astype(np.float16)}, {"y": y})[0] == "right"
    assert judge({"y": y * 1000}, {"y": y})[0] == "wrong"
    assert judge({"y": y * 1.02}, {"y": y})[0] == "wrong"
    assert judge({"y": np.roll(y, 1)}, {"y": y})[0] == "wrong"
    assert judge({"y": y * np.nan}, {"y": y})[0] == "wrong"
    assert judge({"y": y[:50]}, {"y": y})[0] == "wrong"
    assert judge({"y": y * 0}, {"y": y})[0] == "wrong"


CHECKED = (
    "matmul_nbits bits=4 block=32 k=256 n=128 symmetric=True tokens=16",
    "rms_norm rows=128 size=32",
    "raw.rms_norm rank=4 size=32 tokens=16",
    "raw.erf tokens=4",
)


@pytest.mark.slow
def test_the_engine_still_does_what_the_table_says(chip):
    table = {row.key: row for row in Table.load().rows}
    runner = Runner(chip)
    found = list(runner.run(case for case in grid() if case.name in CHECKED))
    assert len(found) == len(CHECKED)
    for again in found:
        assert again.verdict == table[again.key].verdict, again


@pytest.mark.slow
def test_a_crash_is_a_row_and_the_next_case_runs(chip, monkeypatch):
    runner = Runner(chip)
    cases = [case for case in grid() if case.name in CHECKED[:1]] * 2
    rows = runner.run(cases)
    assert next(rows).verdict == "right"
    assert runner.child is not None
    runner.child._process.kill()  # as a segfault would
    runner.child._process.wait()
    assert next(rows).verdict == "crash"
    assert next(runner.run(cases[:1])).verdict == "right"
