"""Bring an ONNX graph to opset 24 and infer its shapes, without its weights.

Weights are taken out for as long as ONNX's tools see the graph (`ir/weightless.py`), small ones too. Small integer
and float32 constants (axes, shapes, scales) stay: adapters read them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx.checker
import onnx.defs
import onnx.shape_inference
import onnx.version_converter
import onnx_ir as ir

from ...diagnostics.diagnostic import fail
from ...ir.opset import IR_VERSION, OPSET
from ...ir.weightless import give_weights, is_big, take_weights
from .older_ops import raised

_READ_BY_ADAPTERS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.FLOAT)
_CHECK_ERRORS = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    onnx.version_converter.ConvertError,
    RuntimeError,
)


def upgrade(model: ir.Model, file: Path) -> ir.Model:
    """A valid opset-24 copy of `model` with types and shapes as far as they can be inferred."""
    version = _opset(model, file)
    weights = take_weights(model.graph, _stays_out)
    proto = ir.to_proto(model)
    proto.ir_version = max(proto.ir_version, IR_VERSION)
    _call(lambda: onnx.checker.check_model(_without_shapeless(proto)), "E0375", f"`{file}` is not a valid ONNX model")
    what = f"`{file}` cannot be brought from opset {version} to {OPSET}"
    proto = _call(lambda: raised(proto, OPSET), "E0373", what)
    if version != OPSET:
        _call(lambda: onnx.checker.check_model(_without_shapeless(proto)), "E0373", what)
    out = ir.from_proto(_inferred(proto, file))
    out.ir_version = IR_VERSION
    give_weights(out.graph, weights)
    _drop_default_values(out.graph)
    return out


def _without_shapeless(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model less outputs that state no shape, which the checker wants of every output and no engine needs."""
    stated = [value for value in proto.graph.output if _states_shape(value)]
    if len(stated) == len(proto.graph.output):
        return proto
    checked = onnx.ModelProto()
    checked.CopyFrom(proto)
    del checked.graph.output[:]
    checked.graph.output.extend(stated)
    return checked


def _states_shape(value: onnx.ValueInfoProto) -> bool:
    kind = value.type
    return kind.WhichOneof("value") not in (None, "tensor_type") or kind.tensor_type.HasField("shape")


def _inferred(proto: onnx.ModelProto, file: Path) -> onnx.ModelProto:
    """With the types and shapes that follow from the inputs; where the file states others of what nodes make, as ONNX
    Runtime does, those are dropped.
    """
    try:
        return _infer(proto)
    except _CHECK_ERRORS:
        del proto.graph.value_info[:]
        for value in proto.graph.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
        return _call(lambda: _infer(proto), "E0375", f"types or shapes in `{file}` do not fit")


def _infer(proto: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)


def _opset(model: ir.Model, file: Path) -> int:
    version, newest = model.graph.opset_imports.get(""), onnx.defs.onnx_opset_version()
    if version is None:
        fail("E0373", f"`{file}` does not say which opset it uses")
    if not 1 <= version <= newest:
        fail("E0373", f"`{file}` is of opset {version}; known are 1 to {newest}")
    return version


def _stays_out(tensor: ir.TensorProtocol) -> bool:
    """Whether neither an adapter nor inference computes with `tensor`."""
    return is_big(tensor) or tensor.dtype not in _READ_BY_ADAPTERS


def _drop_default_values(graph: ir.Graph) -> None:
    """Make an initializer that is an input as well (a default value) an initializer only."""
    for value in list(graph.inputs):
        if value.name in graph.initializers:
            graph.inputs.remove(value)


def _call(step: Callable[[], onnx.ModelProto | None], code: str, what: str) -> onnx.ModelProto:
    try:
        return step() or onnx.ModelProto()
    except _CHECK_ERRORS as problem:
        fail(code, f"{what}: {_reason(str(problem))}")


def _reason(text: str) -> str:
    """ONNX's words without its source positions and headings: the first line that says something."""
    newer = re.search(r"No Previous Version of (\w+) exists", text)
    if newer:
        return f"the op {newer.group(1)} came with a later opset"
    text = re.sub(r"\[\w+Error\] ?|Inference error\(s\): |\S+ adapt: |^.*?Assertion `.*?` failed: ", "", text)
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given").rstrip(" .:")
    where, node, rest = re.fullmatch(r"(\(op_type:\w+, node name: (.*?)\): )?(.*)", line).groups()  # type: ignore[union-attr]
    return (f"`{node}`: " if where else "") + rest[:1].lower() + rest[1:]
