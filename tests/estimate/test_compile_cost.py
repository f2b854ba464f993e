"""What a compile takes, against the compiles that the model was made from."""

import pytest
from edgec.compiler.estimate.compile_cost import costs, emit_cost


@pytest.mark.parametrize("engine", ["qnn", "mnn"])
def test_no_measured_compile_is_far_off(engine):
    for run in costs()[engine]["runs"]:
        made = emit_cost(engine, run["weights"], run["graphs"])
        assert 0.6 < made.memory / run["bytes"] < 1.7, run["what"]
        if "seconds" in run:
            assert 0.4 < made.seconds / run["seconds"] < 2.5, run["what"]


def test_more_buckets_take_more():
    one, three = emit_cost("qnn", 1e9, 1), emit_cost("qnn", 1e9, 3)
    assert three.memory > one.memory
    assert three.seconds == pytest.approx(3 * one.seconds)
