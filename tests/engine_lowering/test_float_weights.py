"""Quantised weights as floats: the graph computes what it did, whichever axis scales lie along."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from edgec.compiler.ir.float_weights import with_float_weights
from edgec.compiler.oracle.oracle import run

GRAPH = """<ir_version: 10, opset_import: ["" : 21]> m (float[2,4] x) => (float[2,6] y) {{
    w = DequantizeLinear <axis = {axis}> (q, s, z)
    y = MatMul (x, w)
}}"""


@pytest.mark.parametrize(("axis", "scales"), [(0, (4,)), (1, (6,)), (-1, (6,)), (1, ())])
def test_they_are_the_same(axis: int, scales: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(GRAPH.format(axis=axis))
    arrays = {
        "q": rng.integers(-128, 128, (4, 6)).astype(np.int8),
        "s": rng.uniform(0.1, 1, scales).astype(np.float32),
        "z": rng.integers(-9, 9, scales).astype(np.int8),
    }
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items())
    model = ir.from_proto(proto)
    feeds = {"x": rng.normal(size=(2, 4)).astype(np.float32)}
    made = with_float_weights(model)
    assert [node.op_type for node in made.graph] == ["MatMul"]
    assert np.array_equal(run(made, feeds)["y"], run(model, feeds)["y"])
