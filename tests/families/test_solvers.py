"""What reads a decoder's graph finds its way in every family: calibration's segments, rotation, scaling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.module import Module
from edgec.compiler.oracle.compare import errors
from edgec.compiler.oracle.oracle import DecoderOracle
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.rotate import Rotate

from .conftest import KINDS

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_segments_in_torch_are_the_oracles_logits(kind: str, halves: bool, model_of: Callable[[str], Module]) -> None:
    from edgec.compiler.calibration.torch_graph import Constants, plain_inputs, run, segments

    module, on = model_of(kind), torch.device("cpu")
    ids = np.random.default_rng(0).integers(0, 2048, (2, 40))
    env, constants = plain_inputs(module, ids, on), Constants(on=on)
    parts = segments(module.main.graph, halves)
    for part in parts:  # one after the other: what a segment reads has to be there
        wanted = [value for value in part.outputs if not (value.name or "").startswith("past_")]
        env.update(zip(wanted, run(part.nodes, env, constants, wanted), strict=True))
    logits = next(made for value, made in env.items() if value.name == "logits").numpy()
    np.testing.assert_allclose(logits, DecoderOracle(module).batch_logits(ids), rtol=0, atol=1e-4)
    assert len(parts) == 2 + 2 * (2 if halves else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_rotation_leaves_the_logits(kind: str, model_of: Callable[[str], Module]) -> None:
    before = model_of(kind)
    after = before.clone()
    assert Rotate(residual=before.arch is not None and not before.arch.sandwich_norms).run(after, Scope()) > 0
    assert max(errors(before, after, moved_cache=True).values()) < 1e-4


def test_no_rotation_passes_a_norm_behind_a_writer(model_of: Callable[[str], Module], golden_error) -> None:
    with pytest.raises(PlanError) as caught:
        Rotate().run(model_of("gemma3_text"), Scope())
    golden_error("E0462", caught.value)
