"""`quantize (weights = int8, activations = uint8)` of a plain graph: ranges on samples, per channel, biases too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.activation_encodings import pairs
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.ir.module import Module, constant
from edgec.compiler.oracle.oracle import run
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.sources.onnx.onnx_source import OnnxSource
from edgec.passes.quantize import Quantize
from onnx import numpy_helper

GRAPH = """g (float[1,3,8,8] x) => (float[1,10] y) {
    c = Conv<pads = [1, 1, 1, 1]>(x, w, b)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = Gemm<transB = 1>(f, v, d)
}"""
CALLS = 8


@pytest.fixture
def module(tmp_path: Path) -> Module:
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {GRAPH}')
    shapes = {"w": (16, 3, 3, 3), "b": (16,), "v": (10, 16), "d": (10,)}
    for name, shape in shapes.items():
        array = rng.normal(size=shape).astype(np.float32) * np.geomspace(0.1, 10, shape[0]).reshape(
            -1, *[1] * (len(shape) - 1)
        )
        proto.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(proto, tmp_path / "m.onnx")
    np.savez(tmp_path / "s.npz", x=rng.normal(size=(CALLS, 1, 3, 8, 8)).astype(np.float32))
    return OnnxSource().with_samples([tmp_path / "s.npz"]).load("m", tmp_path / "m.onnx", 0)


def outputs(module: Module) -> np.ndarray:
    return np.concatenate([run(module.main, feeds)["y"] for feeds in module.samples.feeds(module.main.graph)])


@pytest.mark.parametrize(("activations", "bound"), [("uint8", 0.05), ("uint16", 0.02)])
def test_every_activation_has_a_range(module: Module, activations: str, bound: float) -> None:
    floats = outputs(module)
    assert Quantize(weights="int8", block="channel", activations=activations).run(module, Scope()) > 0
    assert violations(module) == []
    found = {pair.quantize.name: pair.encoding for pair in pairs(module.main.graph)}
    bits = 8 if activations == "uint8" else 16
    names = ["x", "Conv_0", "Relu_0", "GlobalAveragePool_0", "Flatten_0", "Gemm_0"]
    assert list(found) == [f"{name}.act{bits}.quantize" for name in names]
    assert found[f"Flatten_0.act{bits}.quantize"] == found[f"GlobalAveragePool_0.act{bits}.quantize"]
    made = outputs(module)
    error = np.linalg.norm(made - floats) / np.linalg.norm(floats)
    assert 0 < error < bound


def test_weights_are_per_channel_and_biases_in_their_steps(module: Module) -> None:
    Quantize(weights="int8", block="channel", activations="uint8").run(module, Scope())
    conv = next(module.nodes("Conv"))
    weight, bias = (conv.inputs[at].producer() for at in (1, 2))  # type: ignore[union-attr]
    q, scale = constant(bias.inputs[0]), constant(bias.inputs[1])  # type: ignore[union-attr]
    held = constant(weight.inputs[1])  # type: ignore[union-attr]
    assert q is not None
    assert scale is not None
    assert held is not None
    assert (q.dtype.name, held.dims) == ("INT32", (16,))
    step = next(pairs(module.main.graph)).encoding.scale
    np.testing.assert_allclose(scale.numpy(), step * held.numpy(), rtol=1e-5)


def test_a_later_line_measures_anew_and_the_same_line_changes_nothing(module: Module) -> None:
    line = Quantize(weights="int8", block="channel", activations="uint8")
    line.run(module, Scope())
    first = outputs(module)
    assert line.run(module, Scope()) == 0
    assert np.array_equal(outputs(module), first)
    Quantize(weights="int8", block="channel", activations="uint16").run(module, Scope(on=("Conv_0",)))
    found = [pair.encoding.bits for pair in pairs(module.main.graph)]
    assert found == [16, 16, 8, 8, 8, 8]


def test_without_samples_nothing_is_guessed(module: Module, tmp_path: Path) -> None:
    bare = OnnxSource().load("m", tmp_path / "m.onnx", 0)
    with pytest.raises(PlanError, match="needs inputs of `m`"):
        Quantize(weights="int8", block="channel", activations="uint8").run(bare, Scope())
