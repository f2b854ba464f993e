"""A weight format that MNN's table lacks is run on MNN, kept, and judged by its figures."""

from __future__ import annotations

import pytest
from edgec.compiler.emit.conformance.proof import run_trials
from edgec.compiler.emit.conformance.table import Row
from edgec.compiler.emit.refusals import Refused
from edgec.targets.mnn.conformance.linears import LinearFormat, formats
from edgec.targets.mnn.conformance.prove import MnnProver
from edgec.targets.mnn.conformance.table import PLACE, check_format, local_table, table, within
from edgec.targets.mnn.graph.op_classes import linear_use

COARSE = "int4 block 256 symmetric"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path))


def test_a_format_without_a_row_is_run_and_then_taken():
    with pytest.raises(Refused) as raised:
        check_format("lm_head", COARSE)
    assert raised.value.refusal.unproven == (linear_use("lm_head", COARSE),)
    prover = MnnProver([])
    (found,) = run_trials(prover, prover.trials(linear_use("lm_head", COARSE)))
    assert (found.row.verdict, set(found.row.figures)) == ("right", {"normal", "low", "seconds"})
    check_format("lm_head", COARSE)


def test_a_format_that_came_out_wrong_is_refused_with_its_figures():
    local_table().keep([Row(PLACE, "linear", {"format": COARSE}, "wrong", {"normal": 0.5, "low": 0.5})])
    with pytest.raises(Refused) as raised:
        check_format("lm_head", COARSE)
    assert raised.value.refusal.unproven == ()
    assert (
        "the engine computes wrong numbers at format int4 block 256 symmetric (normal 0.5, low 0.5)"
        in raised.value.refusal.message
    )


def test_names_of_formats_are_read_back():
    for one in formats():
        assert one.bits >= 16 or LinearFormat.parse(one.name) == one
    assert MnnProver([]).trials(linear_use("x", "int4 block 32 symmetric, two-level scales")) == []


def test_every_right_row_of_the_table_is_within_its_bounds():
    assert [row for row in table().rows if row.verdict == "right" and not within(row)] == []
