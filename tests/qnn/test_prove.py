"""What is run for a use that the table lacks: the op at its own shape, a long linear in parts that cover it."""

from __future__ import annotations

import pytest
from edgec.compiler.emit.conformance.legality import Legality
from edgec.compiler.emit.conformance.op_class import Use
from edgec.compiler.emit.conformance.table import RIGHT, Row
from edgec.compiler.emit.part import Part
from edgec.targets.qnn.conformance.bounds import within
from edgec.targets.qnn.conformance.cost import seconds
from edgec.targets.qnn.conformance.prove import LONG, HtpProver
from edgec.targets.qnn.conformance.table import table
from edgec.targets.qnn.lower.lower_graphs import lower
from edgec.targets.qnn.lower.op_classes import CLASSES

from .test_legal import OPS

LPBQ = {"weights": "int4", "format": "lpbq", "block": 32}
NBITS = {"bits": 4, "block": 32, "symmetric": True}


def use(lowering, **shape):
    return Use(lowering, tuple(sorted(shape.items())), "lm_head")


@pytest.mark.parametrize("lowering", OPS)
def test_every_op_can_be_run_at_the_shape_it_has_in_a_graph(lowering, chip):
    model, _ = OPS[lowering].make()
    (found,) = [one for one in lower({"case": model})["case"].uses if one.lowering == lowering]
    prover = HtpProver(chip, [Part("case.npu0", "npu", {"case": model})])
    (trial,) = prover.trials(found)
    assert (trial.case.lowering, trial.case.shape, trial.part) == (lowering, found.shape, "")
    made = lower({"case": trial.case.make()[0]})["case"].uses
    assert found.shape in [one.shape for one in made if one.lowering == lowering]


def test_a_use_of_words_that_no_case_has_cannot_be_run(chip):
    assert HtpProver(chip, []).trials(use("matmul", tokens=1, k=16, n=4, mood="odd")) == []
    assert HtpProver(chip, []).trials(use("op.Unheard", rank=2, elements=4)) == []


@pytest.mark.parametrize("tokens", [1, 128])
@pytest.mark.parametrize("k", [1024, 4096])
@pytest.mark.parametrize(("lowering", "words"), [("u16.linear", LPBQ), ("matmul_nbits", NBITS), ("matmul", {})])
def test_a_head_is_run_in_parts_that_cover_it(chip, lowering, words, k, tokens):
    """Every part alone is short, and right rows of all of them say that the whole is right."""
    head = use(lowering, tokens=tokens, k=k, n=151936, **words)
    trials = HtpProver(chip, []).trials(head)
    rows = [Row("v75", lowering, dict(trial.case.shape), RIGHT) for trial in trials]
    assert Legality("v75", rows, CLASSES).problem(head) is None
    assert all(trial.seconds <= LONG for trial in trials)
    assert [bool(trial.part) for trial in trials] == ([False] if len(trials) == 1 else [True, True])
    if len(trials) > 1:
        assert max(dict(trial.case.shape)["n"] for trial in trials) == 151936
        assert max(dict(trial.case.shape)["k"] for trial in trials) == k


def test_the_estimate_grows_with_the_work():
    small, large = (seconds("matmul", use("matmul", tokens=1, k=256, n=n).shape) for n in (256, 152064))
    assert small < 2 < large


def test_every_right_row_of_the_table_is_within_its_bounds():
    rows = [row for row in table().rows if row.verdict == RIGHT and not row.lowering.startswith("raw.")]
    assert [row for row in rows if not within(row)] == []
    assert not within(Row("v75", "matmul", {}, RIGHT, {"error": 0.5, "cosine": 1.0}))
    assert not within(Row("v75", "matmul", {}, RIGHT, {}))
