"""What ONNX's converter and inference get wrong of ops, written so that they get it right.

Meanings that changed with an opset, where the converter changes nothing:

Hardmax before 13        over all axes from `axis` on, as one:   Reshape(Hardmax<axis = 1>(Flatten<axis>(x)), Shape(x))
Pad before 11            a `value` beside another mode than `constant` says nothing, and stops the converter
Resize, Upsample to 10   x_in = x_out / scale: asymmetric; nearest is the floor where an axis grows, the ceiling
                         where it shrinks, and a Resize of each where axes do both
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx.version_converter
from onnx import helper, numpy_helper

from .refusals import all_graphs

_FLATTENED, _RESIZED = 13, 11  # the opsets that brought today's meanings
_OLD_AXIS = 1  # where a Hardmax states none

_DEFAULTS: Mapping[str, tuple[str, int | list[int]]] = {
    "STFT": ("onesided", 1),
    "MeanVarianceNormalization": ("axes", [0, 2, 3]),
}
Rewrite = Callable[[onnx.ModelProto, onnx.NodeProto], list[onnx.NodeProto]]


def raised(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """`proto` at `opset`, by ONNX's converter; ConvertError or RuntimeError where it does not know how."""
    version = next((entry.version for entry in proto.opset_import if not entry.domain), opset)
    _each(proto, tuple(_DEFAULTS), _stated)
    if version < _FLATTENED:
        _each(proto, ("Hardmax",), _hardmax)
    if version < _RESIZED:
        _each(proto, ("Pad",), _pad)
        if any(node.op_type in ("Resize", "Upsample") for graph in all_graphs(proto) for node in graph.node):
            proto, version = onnx.version_converter.convert_version(proto, _RESIZED), _RESIZED
            _each(proto, ("Resize",), _resize)
    return onnx.version_converter.convert_version(proto, opset) if version != opset else proto


def _each(proto: onnx.ModelProto, kinds: tuple[str, ...], rewrite: Rewrite) -> None:
    """Put what `rewrite` makes of each node of these kinds in its place, in bodies too."""
    for graph in reversed(all_graphs(proto)):  # a body before the node that holds it is copied
        found = [node for node in graph.node if node.op_type in kinds and not node.domain]
        if not found:
            continue
        made = [one for node in graph.node for one in (rewrite(proto, node) if node in found else [node])]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in made]
        del graph.node[:]
        graph.node.extend(copies)


def _stated(_proto: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    name, default = _DEFAULTS[node.op_type]
    if all(one.name != name for one in node.attribute):
        node.attribute.append(helper.make_attribute(name, default))
    return [node]


def _pad(_proto: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    if any(one.name == "mode" and one.s != b"constant" for one in node.attribute):
        kept = [one for one in node.attribute if one.name != "value"]
        del node.attribute[:]
        node.attribute.extend(kept)
    return [node]


def _hardmax(_proto: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    x, y = node.input[0], node.output[0]
    axis = next((one.i for one in node.attribute if one.name == "axis"), _OLD_AXIS)
    shape, flat, chosen = (f"{y}.{word}" for word in ("shape", "flat", "chosen"))
    return [
        helper.make_node("Shape", [x], [shape]),
        helper.make_node("Flatten", [x], [flat], axis=axis),
        helper.make_node("Hardmax", [flat], [chosen], name=node.name, axis=1),
        helper.make_node("Reshape", [chosen, shape], [y]),
    ]


def _resize(proto: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    if any(one.name == "coordinate_transformation_mode" for one in node.attribute):
        return [node]
    node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    if any(one.name == "mode" and one.s != b"nearest" for one in node.attribute):
        return [node]
    scales = _constant(proto, node.input[2])
    if scales is None:  # of an Upsample they are never below 1
        node.attribute.append(helper.make_attribute("nearest_mode", "floor"))
        return [node]
    grows, shrinks = np.maximum(scales, 1), np.minimum(scales, 1)
    if (grows == 1).all() or (shrinks == 1).all():
        node.attribute.append(helper.make_attribute("nearest_mode", "floor" if (shrinks == 1).all() else "ceil"))
        return [node]
    made = []
    y = node.output[0]
    for word, factors, mode, source, result in (
        ("grown", grows, "floor", node.input[0], f"{y}.grown"),
        ("shrunk", shrinks, "ceil", f"{y}.grown", y),
    ):
        name = f"{y}.{word}.scales"
        tensor = numpy_helper.from_array(factors.astype(np.float32), name)
        one = onnx.NodeProto.FromString(node.SerializeToString())
        one.attribute.append(helper.make_attribute("nearest_mode", mode))
        one.input[0], one.input[2], one.output[0] = source, name, result
        made += [helper.make_node("Constant", [], [name], value=tensor), one]
    return made


def _constant(proto: onnx.ModelProto, name: str) -> np.ndarray | None:
    """The numbers of that name, stored or made by a Constant, in any graph; None of what is computed."""
    for graph in all_graphs(proto):
        stored = next((one for one in graph.initializer if one.name == name), None)
        made = next((one for one in graph.node if name in one.output and one.op_type == "Constant"), None)
        held = stored if stored is not None else made.attribute[0].t if made is not None else None
        if held is not None:
            return numpy_helper.to_array(held)
    return None
