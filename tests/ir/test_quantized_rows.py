"""What a DequantizeLinear over constants means, for every axis that scales may lie along."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.ir.linears import as_quantized
from edgec.compiler.ir.weights import from_array
from edgec.compiler.oracle.oracle import open_session


def model_of(dims: tuple[int, ...], axis: int, block: int, zero: bool, whole: bool) -> tuple[ir.Model, ir.Node]:
    """`y` = DequantizeLinear of int8 constants; `whole`: one scale for all of them."""
    rng = np.random.default_rng(sum(dims) + axis)
    place = axis % len(dims)
    shape = tuple(-(-d // block) if at == place else d for at, d in enumerate(dims)) if block else (dims[place],)
    shape = () if whole else shape
    arrays = {"q": rng.integers(-128, 128, dims, np.int8), "s": rng.uniform(0.1, 2.0, shape).astype(np.float32)}
    if zero:
        arrays["z"] = rng.integers(-9, 9, shape, np.int8)
    values = []
    for name, array in arrays.items():
        weight = from_array(name, array)
        value = ir.Value(name=name, type=ir.TensorType(weight.dtype), shape=ir.Shape(array.shape))
        value.const_value = weight
        values.append(value)
    made = ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(dims))
    given = {"axis": axis, **({"block_size": block} if block else {})}
    node = ir.node("DequantizeLinear", values, given, outputs=[made], name="d")
    graph = ir.Graph([], [made], nodes=[node], initializers=values, opset_imports={"": 21}, name="g")
    return ir.Model(graph, ir_version=10), node


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(
    ("dims", "axis", "block", "whole"),
    [
        ((12, 10), 0, 0, False),
        ((12, 10), 1, 0, False),
        ((12, 10), -1, 0, False),
        ((12, 10), 1, 0, True),
        ((12, 10), 1, 5, False),
        ((12, 10), 0, 4, False),
        ((12, 10), -2, 3, False),
        ((6, 8, 3, 3), 0, 0, False),
        ((6, 8, 3, 3), 1, 0, False),
        ((6, 8, 3, 3), 1, 4, False),
    ],
)  # fmt: skip
def test_rows_are_what_onnx_runtime_makes(dims, axis, block, whole, zero):
    model, node = model_of(dims, axis, block, zero, whole)
    (expected,) = open_session(model).run(None, {})
    quant = as_quantized(node)
    assert quant is not None
    for start, stop in ((0, dims[0]), (0, 5), (3, 4), (5, dims[0])):
        np.testing.assert_allclose(quant.rows(start, stop), expected[start:stop], rtol=1e-6, atol=1e-6)
