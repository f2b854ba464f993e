"""The rows of this machine: kept, used again, and believed only where they fit; trials that are run once."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import pytest
from edgec.compiler.emit.conformance.legality import Legality
from edgec.compiler.emit.conformance.local_table import KIND, LocalTable, stamp
from edgec.compiler.emit.conformance.measure import UNENDED, Case
from edgec.compiler.emit.conformance.op_class import ClassRule, Use
from edgec.compiler.emit.conformance.proof import Trial, about, plan_trials, run_trials
from edgec.compiler.emit.conformance.table import RIGHT, SECONDS, Row
from edgec.compiler.files import cache

RULE = ClassRule(frozenset({"rows"}), {})


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path))


def table(build="1.0", code="c"):
    return LocalTable("toy", "here", {"engine": build}, code, lambda row: row.figures.get("error", math.nan) <= 0.01)


def row(rows, verdict=RIGHT, error=0.001, lowering="norm"):
    return Row("here", lowering, {"rows": rows, "mask": True}, verdict, {"error": error})


def test_rows_are_kept_and_a_new_one_takes_the_place_of_its_like():
    table().keep([row(1), row(2)])
    table().keep([row(2, "wrong", 0.5), row(3, "crash", math.nan)])
    found = {one.shape["rows"]: one.verdict for one in table().rows()}
    assert found == {1: RIGHT, 2: "wrong", 3: "crash"}
    assert table().rows()[0].shape == {"rows": 1, "mask": True}


def test_what_an_engine_said_is_told():
    table().keep([Row("here", "norm", {"rows": 4}, "rejected", {"error": math.nan}, "no such form")])
    judge = Legality("here", table().rows(), RULE)
    problem = judge.problem(Use("norm", (("rows", 4),), "op"))
    assert problem == "is known to fail on here: the engine refuses it at rows 4 (no such form)"


@pytest.mark.parametrize("other", [table(build="1.1"), table(code="d")])
def test_another_build_or_another_lowering_begins_with_none(other):
    table().keep([row(1)])
    assert other.rows() == []


def test_a_damaged_table_is_none_and_is_made_again(recwarn):
    table().keep([row(1)])
    (note,) = cache.cache_root().rglob("*.note")
    note.write_bytes(note.read_bytes().replace(b"right", b"wrong"))
    assert table().rows() == []
    assert not note.exists()
    table().keep([row(2)])
    assert [one.shape["rows"] for one in table().rows()] == [2]


@pytest.mark.parametrize(
    "hostile",
    [
        ["norm", {"rows": 1}, RIGHT, {"error": 0.4}, ""],  # its figures are those of a wrong one
        ["norm", {"rows": 1}, RIGHT, {"error": None}, ""],
        ["norm", {"rows": 1}, RIGHT, {}, ""],
        ["norm", {"rows": 1}, "fine", {"error": 0.0}, ""],
        ["norm", {"rows": [1]}, RIGHT, {"error": 0.0}, ""],
        ["norm", {"rows": 1}, RIGHT, {"error": "0"}, ""],
        ["norm", {"rows": 1}, RIGHT],
        "norm",
        {"rows": 1},
    ],
)
def test_a_row_that_no_run_wrote_is_not_believed(hostile):
    good = ["norm", {"rows": 2}, RIGHT, {"error": 0.0}, ""]
    cache.write_note(KIND, table().key, json.dumps([hostile, good]))
    assert [one.shape for one in table().rows()] == [{"rows": 2}]


@pytest.mark.parametrize("text", ["", "{", "3", "null", '{"rows": []}'])
def test_a_table_that_is_no_list_has_no_rows(text):
    cache.write_note(KIND, table().key, text)
    assert table().rows() == []


def test_the_stamp_changes_with_the_rows():
    before = stamp()
    table().keep([row(1)])
    assert stamp() != before


@dataclass
class ToyProver:
    """An engine that computes norms of up to 9 rows right, and comes to no end at 13."""

    engine: str = "the toy"
    ran: list[int] = field(default_factory=list)
    local: LocalTable = field(default_factory=table)

    def legality(self):
        return Legality("here", self.local.rows(), RULE)

    def trials(self, use):
        if use.lowering != "norm":
            return []
        return [Trial(Case("norm", use.shape, lambda: None), dict(use.shape)["rows"])]

    def run(self, trial):
        rows = dict(trial.case.shape)["rows"]
        self.ran.append(rows)
        verdict = UNENDED if rows == 13 else RIGHT if rows < 10 else "wrong"
        return Row("here", "norm", dict(trial.case.shape), verdict, {"error": 0.001 if rows < 10 else 0.7})


def use(rows, lowering="norm"):
    return Use(lowering, (("mask", True), ("rows", rows)), "op")


def test_each_form_is_run_once_the_shortest_first_and_never_again():
    prover = ToyProver()
    trials, left = plan_trials(prover, [use(5), use(2), use(5), use(1, "odd")])
    assert left == [use(1, "odd")]
    said = []
    found = list(run_trials(prover, trials, said.append))
    assert prover.ran == [2, 5]
    assert [one.row.verdict for one in found] == [RIGHT, RIGHT]
    assert found[0].row.figures[SECONDS] >= 0
    list(run_trials(prover, trials))
    assert prover.ran == [2, 5]
    assert prover.legality().problem(use(3)) is None


def test_what_came_out_wrong_is_told_with_its_figure_and_what_did_not_end_is_not_kept():
    prover = ToyProver()
    trials, _ = plan_trials(prover, [use(12), use(13)])
    verdicts = {one.trial.seconds: one for one in run_trials(prover, trials)}
    assert verdicts[12].text == "`norm` (mask True, rows 12): wrong, error 0.7"
    judge = prover.legality()
    assert "(error 0.7)" in (judge.problem(use(12)) or "")
    assert not judge.unknown(use(12))
    assert judge.unknown(use(13))


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "1 s"), (8.4, "8 s"), (43, "40 s"), (200, "3 min")])
def test_durations_are_said_roughly(seconds, said):
    assert about(seconds) == said
