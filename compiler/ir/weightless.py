"""Big weights out of a graph and back, around a tool that takes one serialised model.

The ONNX checker, its version converter and graphsurgeon read a `ModelProto`, which must stay below 2 GiB and would
copy every weight. So they see a skeleton in which each big weight is a graph input of its type and shape:

graph --take_weights--> graph with inputs instead --to_proto--> tool --from_proto--> other graph --give_weights-->

Shape inference needs neither: onnx-ir's `ShapeInferencePass` leaves weights out by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import onnx_ir as ir

from .save import INLINE_BYTES

Tensor = TypeVar("Tensor", bound=ir.TensorProtocol)


def is_big(tensor: ir.TensorProtocol) -> bool:
    """Whether `tensor` is too big to be a shape, an axis or a scale that tools compute with."""
    return tensor.nbytes > INLINE_BYTES


def take_weights(graph: ir.Graph, which: Callable[[ir.TensorProtocol], bool] = is_big) -> dict[str, ir.TensorProtocol]:
    """Turn the initializers of `graph` that `which` chooses into inputs, after the graph's own; nothing is read.

    Returns their tensors by name, in the order of the initializers.
    """
    taken: dict[str, ir.TensorProtocol] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or not which(tensor):
            continue
        taken[name] = tensor
        value.dtype, value.shape = tensor.dtype, ir.Shape(tensor.shape.numpy())
        value.const_value = None
        del graph.initializers[name]
        if value not in graph.inputs:  # an initializer that is an input as well is a default value
            graph.inputs.append(value)
    return taken


def give_weights(graph: ir.Graph, weights: Mapping[str, Tensor]) -> None:
    """Turn the inputs of `graph` that are named in `weights` into initializers, in the order of `weights`.

    `graph` may be another one than they were taken from; a weight whose input it no longer has is forgotten.
    """
    entries = {value.name: value for value in graph.inputs if value.name in weights}
    rest = [value for value in graph.inputs if value.name not in weights]
    graph.inputs.clear()
    graph.inputs.extend(rest)
    for name, tensor in weights.items():
        if name in entries:
            entries[name].const_value = tensor
            graph.register_initializer(entries[name])
