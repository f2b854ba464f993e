"""`weights = int1` and `weights = ternary`: grids, methods, words, and what they do not go with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.weight_format import WeightFormat
from edgec.compiler.pipeline.pass_check import from_text, run_and_check
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.quantization.round_to_nearest import quantise
from edgec.passes.quantize import Quantize
from edgec.passes.solve import awq, gptq, hqq, integer_grid, mse
from edgec.passes.solve.residual_streams import Moments
from edgec.passes.sparsify import Sparsify

INTEGERS = {"int1": [-1, 1], "ternary": [-1, 0, 1]}
FORMATS = {
    "int1": WeightFormat(1, 32, True),
    "ternary": WeightFormat(2, 32, True, ternary=True),
}
W = np.random.default_rng(3).standard_normal((48, 128)).astype(np.float32)
NUMBERS = ", ".join(f"{value:.4f}" for value in W[:24, :64].ravel())
MATMUL = f"""<ir_version: 10, opset_import: ["" : 21]> m (float[B,64] x) => (float[B,24] y)
<float[64,24] w = {{{NUMBERS}}}> {{ y = MatMul(x, w) }}"""


def value(q, scale):
    return q.reshape(*scale.shape, -1) * scale[..., None]


@pytest.mark.parametrize("weights", INTEGERS)
@pytest.mark.parametrize("block", [32, "channel"])
def test_a_linear_gets_its_integers(weights, block):
    result = run_and_check(Quantize(weights=weights, block=block), MATMUL)
    quant = next(linears(result.module)).quant
    assert quant is not None
    assert sorted(set(quant.q.numpy().astype(int).ravel().tolist())) == INTEGERS[weights]
    assert (quant.format.bits, quant.format.ternary) == ((1, False) if weights == "int1" else (2, True))


def test_one_bit_is_the_sign_and_the_mean():
    q, scale, zero = quantise(W, FORMATS["int1"])
    assert zero is None
    assert np.array_equal(q, np.where(W > 0, 1, -1))
    assert np.array_equal(scale, np.abs(W).reshape(48, 4, 32).mean(-1).astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("weights", INTEGERS)
def test_weights_that_are_on_the_grid_stay_what_they_are(weights):
    rng = np.random.default_rng(4)
    scale = rng.uniform(0.01, 1, (48, 4)).astype(np.float16).astype(np.float32)
    w = value(rng.choice(INTEGERS[weights], W.shape).astype(np.float32), scale).reshape(W.shape)
    q, found, _ = quantise(w, FORMATS[weights])
    assert np.allclose(found, scale, rtol=1e-3)  # float16, of a mean
    assert np.array_equal(np.sign(q), np.sign(w))


@pytest.mark.parametrize("weights", INTEGERS)
def test_means_err_less_than_the_largest_weight(weights):
    format_ = FORMATS[weights]
    q, scale, _ = quantise(W, format_)
    largest = np.abs(W).reshape(48, 4, 32).max(-1)
    nearest = np.sign(W) if weights == "int1" else np.clip(np.rint(W / np.repeat(largest, 32, 1)), -1, 1)
    error, other = (np.square(made.reshape(W.shape) - W).sum() for made in (value(q, scale), value(nearest, largest)))
    assert error < 0.6 * other


def _gptq(w, kind):
    x = torch.randn(2048, 128, generator=torch.Generator().manual_seed(1))
    made = gptq.solve("linear", w, Moments(x.T @ x / 1024, None, x.abs().mean(0), 2048), kind, gptq.Gptq())
    return made.q, made.grid


def _awq(w, kind):
    made = awq.quantise(w, torch.eye(128), kind, 0.01)
    return made.q, made.grid


METHODS = {
    "mse": lambda w, kind: mse.solve(w, kind, mse.Mse()),
    "hqq": lambda w, kind: hqq.solve(w, kind, hqq.Hqq()),
    "awq": _awq,
    "gptq": _gptq,
}


@pytest.mark.parametrize("weights", INTEGERS)
@pytest.mark.parametrize("method", METHODS)
def test_each_method_stays_on_the_grid(weights, method):
    q, grid = METHODS[method](torch.from_numpy(W), integer_grid.kind_of(FORMATS[weights], 128))
    assert sorted(set(q.int().ravel().tolist())) == INTEGERS[weights]
    assert bool((grid.scale > 0).all())
    error = float((grid.value(q) - torch.from_numpy(W)).square().mean())
    assert error < (0.55 if weights == "int1" else 0.35)  # of weights of mean square 1; zeros alone err by 1


def test_mse_finds_about_the_best_there_is():
    """For normal weights: one bit errs by 1 - 2 / pi, ternary by 0.19, a little less where 32 share a scale."""
    for weights, least in (("int1", 0.363), ("ternary", 0.190)):
        q, grid = mse.solve(torch.from_numpy(W), integer_grid.kind_of(FORMATS[weights], 128), mse.Mse())
        error = float((grid.value(q) - torch.from_numpy(W)).square().mean() / np.square(W).mean())
        assert 0.85 * least < error < 1.03 * least


def test_a_learned_rounding_moves_by_whole_steps():
    from edgec.passes.solve.reconstruct import _Rounding

    q, grid = mse.solve(torch.from_numpy(W), integer_grid.kind_of(FORMATS["int1"], 128), mse.Mse())
    rounding = _Rounding(gptq.Solved(q, grid, torch.from_numpy(W), []))
    found = rounding.solved(gptq.Solved(q, grid, torch.from_numpy(W), []))
    assert sorted(set(found.q.ravel().tolist())) == [-1, 1]
    assert torch.equal(found.q, q)


@pytest.mark.parametrize("weights", INTEGERS)
def test_there_is_no_zero_point(weights):
    (problem,) = Quantize(weights=weights, symmetric=False).validate()
    assert problem[0] == "symmetric"
    assert "no zero point" in problem[1]
    assert not Quantize(weights=weights).validate()


def test_a_format_is_what_its_manifest_row_says():
    for format_ in (*FORMATS.values(), FORMATS["int1"].stored_in(2)):
        found = WeightFormat.of_entry(format_.entry())
        assert found is not None
        assert found.describe() == format_.describe()
        assert found.integers == format_.integers
    assert FORMATS["ternary"].describe() == "ternary block 32 symmetric"


def test_one_bit_has_no_zeros_to_keep():
    module = from_text(MATMUL)
    Sparsify().run(module, Scope())
    with pytest.raises(EdgecError, match="zeros in the pattern 2:4") as raised:
        Quantize(weights="int1").run(module, Scope())
    assert raised.value.diagnostics[0].code == "E0463"
    Quantize(weights="ternary").run(module, Scope())
    quant = next(linears(module)).quant
    assert quant is not None
    assert (quant.q.numpy().astype(int) == 0).mean() >= 0.5
