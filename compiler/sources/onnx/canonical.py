"""The canonical form of a general graph: what follows from constants and static shapes alone is computed here, once.

    Shape(x), Size(x) of static axes, Gather(Shape(x), i) of a static axis i     -> constants
    op(constants) up to 4 MiB, ConstantOfShape of any size                       -> constants
    Identity, Dropout, Concat of one, Cast to the type that is there             -> what they read
    If of a constant                                                             -> the branch that it takes
    BatchNormalization                                                           -> folded (`batch_norm.py`)
    Reshape<allowzero = 1> to a constant shape without a 0                       -> Reshape
    auto_pad of convolutions and poolings over static sizes                      -> pads

Left alone: dequantised weights and their transposes (linears read through them), random ops, bodies of If and Loop,
what is an output of the graph, and ops of other domains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from ...ir.attributes import WINDOWS, Value, attributes
from ...ir.bodies import bodies
from ...ir.module import constant, drop_unread_nodes, drop_unused_initializers, initializer
from ...ir.weightless import give_weights, take_weights
from ...ir.weights import DryWeight, Weight, from_array, numbers
from .batch_norm import fold_batch_norm
from .constant_if import inline_branch

_ROUNDS = 8  # what a round makes static, the next one folds
_MOST = 4 << 20  # bytes that an op reads or makes
_MOST_MADE, _LONGEST_KEY = 4096, 1 << 12  # results of small operands that are remembered
_made: dict[tuple[object, ...], list[np.ndarray]] = {}
_KEPT = ("DequantizeLinear", "QuantizeLinear", "Transpose", "Constant", "Bernoulli", "Multinomial", "ConstantOfShape")
_GROW = ("Expand", "Tile", "Resize", "Pad", "OneHot", "Range", "EyeLike")  # make more than they read


def canonical(model: ir.Model, again: bool = False) -> None:
    """Bring the main graph of `model` into canonical form; its shapes are inferred again where that tells more.

    `again`: of a graph that was in that form, whose inputs got other shapes.
    """
    graph = model.graph
    if again:
        infer(model)
    for _ in range(_ROUNDS):
        changed = sum(_changed(graph, node) for node in list(graph))
        if not changed:
            return
        drop_unread_nodes(graph, lambda _node: True)
        drop_unused_initializers(graph)
        infer(model)


def infer(model: ir.Model) -> None:
    """Shapes anew, in place; weights that a dry run does not read stay out of it."""
    dry = take_weights(model.graph, lambda tensor: isinstance(tensor, DryWeight))
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    give_weights(model.graph, dry)


def _changed(graph: ir.Graph, node: ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    made = _static(node) or _computed(node)
    if made is not None:
        return _replace(graph, node, made)
    if node.op_type in ("Identity", "Dropout") or _copies(node):
        return _bypass(graph, node)
    if node.op_type == "If":
        return inline_branch(graph, node)
    if node.op_type == "BatchNormalization":
        return fold_batch_norm(graph, node)
    if node.op_type == "Reshape":
        return _drop_allowzero(node)
    return node.op_type in WINDOWS and _explicit_pads(node)


def _static(node: ir.Node) -> list[Weight] | None:
    """What an op makes that only asks for a shape, or repeats one number."""
    if node.op_type == "ConstantOfShape":
        return _filled(node)
    if node.op_type == "Gather":
        return _size_of_axis(node)
    x = node.inputs[0] if node.inputs else None
    if node.op_type not in ("Shape", "Size") or x is None or x.shape is None:
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(x.shape))
    dims = list(x.shape)[start:end] if node.op_type == "Shape" else list(x.shape)
    if not all(isinstance(d, int) for d in dims):
        return None
    sizes = np.array(dims, np.int64)
    return [from_array("", sizes if node.op_type == "Shape" else np.array(sizes.prod(dtype=np.int64)))]


def _size_of_axis(node: ir.Node) -> list[Weight] | None:
    """Gather(Shape(x), i): the size of axis i, where that is known."""
    shape, places = node.inputs[0], constant(node.inputs[1])
    maker = shape.producer() if shape is not None else None
    if places is None or maker is None or maker.op_type != "Shape" or {"start", "end"} & maker.attributes.keys():
        return None
    x = maker.inputs[0]
    dims = list(x.shape) if x is not None and x.shape is not None else []
    wanted = np.asarray(numbers(places))
    if not dims or wanted.size == 0 or not (-len(dims) <= wanted.min() and wanted.max() < len(dims)):
        return None
    sizes = [dims[int(i)] for i in wanted.ravel()]
    if not all(isinstance(size, int) for size in sizes):
        return None
    return [from_array("", np.array(sizes, np.int64).reshape(wanted.shape))]


def _filled(node: ir.Node) -> list[Weight] | None:
    """ConstantOfShape: rows are made when they are read, so that its size does not matter."""
    held = constant(node.inputs[0])
    if held is None:
        return None
    dims = [int(d) for d in np.asarray(numbers(held))]
    value = node.attributes.get("value")
    number = np.zeros(1, np.float32) if value is None else np.asarray(value.as_tensor().numpy()).reshape(-1)[:1]
    if not dims:
        return [from_array("", number.reshape(()))]

    def rows(start: int, stop: int) -> np.ndarray:
        return np.broadcast_to(number, (stop - start, *dims[1:]))

    return [Weight("", ir.DataType.from_numpy(number.dtype), dims, rows, "one number")]


def _computed(node: ir.Node) -> list[Weight] | None:
    """What an op makes of constants, by ONNX Runtime; None where that is not known to be small, or fails."""
    held = [None if value is None else constant(value) for value in node.inputs]
    missing = any(one is None and value is not None for one, value in zip(held, node.inputs, strict=True))
    if not held or missing or bodies(node) or _is_kept(node, held) or node.op_type.startswith("Random"):
        return None
    if sum(one.nbytes for one in held if one is not None) > _MOST or not all(_small(node, v) for v in node.outputs):
        return None
    try:
        return [from_array("", np.asarray(array)) for array in _remembered(node, held)]
    except Exception:  # of types of its own; the engines say what is wrong with the node
        return None


def _is_kept(node: ir.Node, held: Sequence[Weight | None]) -> bool:
    """Whether linears read through the op; of sizes and pads none does."""
    sizes = bool(held) and held[0] is not None and held[0].dtype in (ir.DataType.INT32, ir.DataType.INT64)
    return node.op_type in _KEPT and not (node.op_type == "Transpose" and sizes)


def _small(node: ir.Node, value: ir.Value) -> bool:
    if value.shape is None or not value.shape.is_static():
        return node.op_type not in _GROW
    return 8 * math.prod(int(d) for d in value.shape.numpy()) <= _MOST


def _remembered(node: ir.Node, held: Sequence[Weight | None]) -> list[np.ndarray]:
    """What `_evaluate` makes; the layers of a decoder compute the same constants over and over."""
    arrays = [None if one is None else np.asarray(numbers(one)) for one in held]
    told = [None if one is None else (one.dtype.str, one.shape, one.tobytes()) for one in arrays if _hashed(one)]
    attributes = sorted(ir.to_proto(one).SerializeToString() for one in node.attributes.values())
    version = node.graph.opset_imports[""] if node.graph is not None else 0
    key = (node.op_type, version, *attributes, *told, *(bool(value.name) for value in node.outputs))
    if len(told) < len(arrays):
        return _evaluate(node, held)
    if key not in _made:
        if len(_made) >= _MOST_MADE:
            _made.clear()
        _made[key] = _evaluate(node, held)
    return _made[key]


def _hashed(array: np.ndarray | None) -> bool:
    return array is None or (array.dtype.kind != "O" and array.nbytes <= _LONGEST_KEY)


def _evaluate(node: ir.Node, held: Sequence[Weight | None]) -> list[np.ndarray]:
    """What ONNX Runtime, which is what a graph means here, makes of the node alone.

    ONNX's own reference takes a GroupNormalization, a Resize or a convolution over another shape than it says.
    """
    from ...ir.onnx_runtime import session  # of a library that graphs without such ops do not wait for

    inputs = [
        None if one is None else ir.Value(name=f"x{i}", const_value=from_array(f"x{i}", np.asarray(numbers(one))))
        for i, one in enumerate(held)
    ]
    read = [value for value in node.outputs if value.name]
    outputs = [ir.Value(name=f"y{i}" if value.name else "") for i, value in enumerate(node.outputs)]
    alone = ir.Node("", node.op_type, inputs, node.attributes.values(), outputs=outputs, name="op")
    version = node.graph.opset_imports[""] if node.graph is not None else 0
    graph = ir.Graph(
        [],
        [value for value in outputs if value.name],
        nodes=[alone],
        initializers=[value for value in inputs if value is not None],
        opset_imports={"": version},
        name="constants",
    )
    for value, have in zip(graph.outputs, read, strict=True):
        value.type = have.type
    opened = session(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString(), quiet=True)
    made: dict[str | None, np.ndarray] = {}
    for value, one in zip(graph.outputs, opened.run(None, {}), strict=True):
        if not isinstance(one, np.ndarray):
            raise TypeError("a sequence is no constant")
        made[value.name] = one
    return [made.get(value.name, np.zeros(0)) for value in outputs]


def _replace(graph: ir.Graph, node: ir.Node, made: Sequence[Weight]) -> bool:
    """Constants in place of what `node` makes; an output of the graph stays what a node makes."""
    if any(value.is_graph_output() for value in node.outputs):
        return False
    for value, weight in zip(node.outputs, made, strict=True):
        if value.uses():
            name, value.name = value.name or f"{node.name}.constant", None
            value.replace_all_uses_with(initializer(graph, name, weight))
    graph.remove(node, safe=True)
    return True


def _copies(node: ir.Node) -> bool:
    """A Concat of one, a Cast to the type that its operand has."""
    if node.op_type == "Cast":
        have = node.inputs[0].dtype if node.inputs[0] is not None else None
        return have is not None and have == node.attributes.get_int("to", 0)
    return node.op_type == "Concat" and len(node.inputs) == 1


def _bypass(graph: ir.Graph, node: ir.Node) -> bool:
    """Readers of a copy read the original; a mask that is read keeps its Dropout."""
    source, made, *more = (node.inputs[0], *node.outputs)
    training = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    trains = len(node.inputs) > 2 and node.inputs[2] is not None and (training is None or bool(training.numpy()))
    if source is None or made.is_graph_output() or trains or any(one.uses() or one.is_graph_output() for one in more):
        return False
    made.replace_all_uses_with(source)
    graph.remove(node, safe=True)
    return True


def _drop_allowzero(node: ir.Node) -> bool:
    shape = constant(node.inputs[1])
    if not node.attributes.get_int("allowzero", 0) or shape is None or 0 in np.asarray(numbers(shape)):
        return False
    del node.attributes["allowzero"]
    return True


def _explicit_pads(node: ir.Node) -> bool:
    """SAME_UPPER, SAME_LOWER: out = ceil(in / stride), so pads = (out - 1) * stride + reach - in; VALID: none.

    ONNX Runtime pads a pooling as if it were not dilated, which leaves fewer values than ONNX's inference says.
    """
    x, found = node.inputs[0], attributes(node)
    if node.op_type == "ConvTranspose":
        return _explicit_transposed_pads(node, found)
    auto = found.get("auto_pad")
    kernel, strides, dilations = (found.get(name) for name in ("kernel_shape", "strides", "dilations"))
    if auto in (None, "NOTSET") or x is None or x.shape is None:
        return False
    inside = list(x.shape)[2:]
    if auto != "VALID" and not all(isinstance(size, int) for size in inside):
        return False
    if not (isinstance(kernel, tuple) and isinstance(strides, tuple) and isinstance(dilations, tuple)):
        return False
    totals = [0] * len(inside)
    if auto != "VALID":
        if node.op_type != "Conv" and any(int(d) > 1 for d in dilations):
            _forget_shapes(node)
            dilations = (1,) * len(kernel)
        reach = [(int(k) - 1) * int(d) + 1 for k, d in zip(kernel, dilations, strict=True)]
        sizes = zip(inside, reach, (int(s) for s in strides), strict=True)
        totals = [max((-(-size // stride) - 1) * stride + r - size, 0) for size, r, stride in sizes]  # type: ignore[operator]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    pads = [*large, *small] if auto == "SAME_LOWER" else [*small, *large]
    del node.attributes["auto_pad"]
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    return True


def _forget_shapes(node: ir.Node) -> None:
    """The shapes of all that hangs on what `node` makes, to be inferred again."""
    waiting, seen = [*node.outputs], set[ir.Value]()
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        value.shape = None
        waiting += [made for reader, _ in value.uses() for made in reader.outputs]


def _explicit_transposed_pads(node: ir.Node, found: Mapping[str, Value]) -> bool:
    """out = in * stride with SAME, so pads = reach + output_padding - stride, whatever the size; VALID: none."""
    auto, kernel, strides, dilations = (found.get(n) for n in ("auto_pad", "kernel_shape", "strides", "dilations"))
    if auto in (None, "NOTSET") or "output_shape" in node.attributes:
        return False
    if not (isinstance(kernel, tuple) and isinstance(strides, tuple) and isinstance(dilations, tuple)):
        return False
    more = node.attributes.get_ints("output_padding", [0] * len(kernel))
    sizes = zip(kernel, strides, dilations, more, strict=True)
    totals = [(int(k) - 1) * int(d) + 1 + extra - int(stride) for k, stride, d, extra in sizes]
    if auto == "VALID":
        totals = [0] * len(totals)
    if min(totals) < 0:
        return False
    if any(more):  # ONNX's inference adds it to a size that SAME gives already
        _forget_shapes(node)
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    pads = [*large, *small] if auto == "SAME_LOWER" else [*small, *large]
    del node.attributes["auto_pad"]
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    return True
