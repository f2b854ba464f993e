"""Shapes of inputs that a plan gives, in place of the open dimensions of an ONNX file.

A dimension that has a name gets its size wherever the name stands, in other inputs and in outputs too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from ...diagnostics.diagnostic import fail
from ...diagnostics.nearest import nearest_help


def give_shapes(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], file: Path) -> None:
    """Write `shapes` into the inputs of the model; E0378 for one that does not fit what the file states."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = {value.name: value for value in proto.graph.input if value.name not in constants}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in inputs:
            listed = ", ".join(f"`{known}`" for known in inputs)
            help = nearest_help(name, inputs, "input") or f"its inputs: {listed or 'none'}"
            fail("E0378", f"`{file}` has no input `{name}`", help=help)
        _give(inputs[name], shape, sizes, file)
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]


def _give(value: onnx.ValueInfoProto, shape: tuple[int, ...], sizes: dict[str, int], file: Path) -> None:
    stated = value.type.tensor_type.shape
    text = "x".join(dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?") for dim in stated.dim)
    given = "x".join(map(str, shape))
    what = f"input `{value.name}` of `{file}` has the shape {text or '(none)'}, which {given or '(none)'} does not fit"
    if not value.type.tensor_type.HasField("shape"):
        stated.dim.extend(onnx.TensorShapeProto.Dimension() for _ in shape)
    if len(stated.dim) != len(shape):
        fail("E0378", what, help=f"give {len(stated.dim)} sizes")
    for dim, size in zip(stated.dim, shape, strict=True):
        if dim.HasField("dim_value") and dim.dim_value != size:
            fail("E0378", what, help="sizes that the file states stay as they are; give the open ones")
        if dim.dim_param and sizes.setdefault(dim.dim_param, size) != size:
            fail(
                "E0378",
                f"{what}: `{dim.dim_param}` is {sizes[dim.dim_param]} elsewhere",
                help="give one size to a name",
            )
        dim.dim_value = size
