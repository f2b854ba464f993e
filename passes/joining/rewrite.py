"""The graph side of `fuse`: which linears are joined, under which name, and what is cut from the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ...compiler.ir.activation_encodings import quantised
from ...compiler.ir.annotations import ACTIVATIONS, DEVICE, SHADOW, SHARD
from ...compiler.ir.fold_into_weights import behind_bias, bias_of
from ...compiler.ir.linears import Linear, linears
from ...compiler.ir.module import Module, constant, drop_unread_nodes, drop_unused_initializers, initializer
from ...compiler.ir.weights import from_array, numbers
from ...compiler.pipeline.pass_interface import Scope
from .joined_weight import joined_tensors

_MAKE_WEIGHTS = ("DequantizeLinear", "DequantizeBlocks", "Transpose")


def fuse(module: Module, scope: Scope) -> int:
    """Join what reads one value and has one format; the number of linears that became a part of another."""
    integers = quantised(module.main.graph)
    changes = 0
    for together in _reading_one_value(module, scope):
        groups: dict[tuple[str, ...], list[Linear]] = {}
        for linear in together:
            why = (
                "its result is integers of a range of its own: put `fuse` in front of `quantize`" if integers else None
            )
            why = why or _alone(linear)
            if why is not None:
                scope.skip(linear.node, why)
            else:
                groups.setdefault(_kind(linear), []).append(linear)
        for group in groups.values():
            if len(group) > 1:
                _join(module, group)
                changes += len(group)
            else:
                _skip(group[0], groups, scope)
    if changes:
        drop_unread_nodes(module.main.graph, lambda node: node.op_type in _MAKE_WEIGHTS)
        drop_unused_initializers(module.main.graph)
        module.main.graph.sort()
    return changes


def _reading_one_value(module: Module, scope: Scope) -> list[list[Linear]]:
    """The selected linears of each value that several of them read."""
    found: dict[ir.Value, list[Linear]] = {}
    for linear in linears(module):
        read = linear.node.inputs[0]
        if linear.kind == "matmul" and read is not None and SHADOW.get(linear.node) != "cpu":
            found.setdefault(read, []).append(linear)
    chosen = ([one for one in together if scope.selects(one.name)] for together in found.values())
    return [together for together in chosen if len(together) > 1]


def _alone(linear: Linear) -> str | None:
    """Why a linear cannot be a part of another, whatever the others are."""
    if SHADOW.get(linear.node) is not None:
        return "it has a shadow, which corrects it alone: put `fuse` in front of `shadow`"
    if not linear.rows_are_outputs:
        return "its weight is stored as [in, out]"
    turned = linear.node.inputs[1]
    if any(len(value.uses()) > 1 for value in (linear.initializer, linear.value, turned) if value is not None):
        return "it shares its weight with another op"
    if behind_bias(linear).is_graph_output() or linear.node.outputs[0].is_graph_output():
        return "its result is an output of the model"
    return None


_FACTS = ("the format of the weight", "having a bias", "the type of activations", "its device")


def _kind(linear: Linear) -> tuple[str, ...]:
    """What linears have to share to be one; in the order of `_FACTS`."""
    quant, node = linear.quant, linear.node
    if quant is not None:
        held = [quant.q, quant.scale, quant.zero_point, quant.minimum]
        types = " ".join("-" if one is None else f"{one.dtype.name} {one.dims[1:]}" for one in held)
        weight = f"{quant.format} {types} {quant.node.op_type} {quant.axis}"
    else:
        weight = "" if linear.stored is None else linear.stored.dtype.name
    return (
        weight,
        str(bias_of(linear) is not None),
        ACTIVATIONS.get(node) or "",
        f"{DEVICE.get(node)} {SHARD.get(node)}",
    )


def _skip(linear: Linear, groups: Mapping[tuple[str, ...], Sequence[Linear]], scope: Scope) -> None:
    """Say what keeps a linear from the others that read what it reads."""
    own = _kind(linear)
    for kind, others in groups.items():
        if kind != own:
            fact = next(fact for fact, mine, theirs in zip(_FACTS, own, kind, strict=True) if mine != theirs)
            scope.skip(linear.node, f"it differs from `{others[0].name}`, which reads the same, in {fact}")
            return


def joined_name(names: Sequence[str]) -> str:
    """`….qkv_proj` of `….q_proj`, `….k_proj`, `….v_proj`; `….gate_up_proj` of the other two."""
    folder, _, first = names[0].rpartition(".")
    leaves = [name.rpartition(".")[2] for name in names]
    tail = "_" + first.rpartition("_")[2] if "_" in first else ""
    if tail and all(leaf.endswith(tail) for leaf in leaves):
        leaves = [leaf.removesuffix(tail) for leaf in leaves]
    else:
        tail = ""
    between = "" if all(len(leaf) == 1 for leaf in leaves) else "_"
    return ".".join(filter(None, (folder, between.join(leaves) + tail)))


def _join(module: Module, group: Sequence[Linear]) -> None:
    graph, first = module.main.graph, group[0].node
    name, like = joined_name([one.name for one in group]), first.outputs[0]
    n, k = sum(one.shape[0] for one in group), group[0].shape[1]
    made = _weight(graph, name, group)
    weight = made[-1].outputs[0] if made else graph.initializers[f"{name}.weight"]
    turned = ir.node("Transpose", [weight], {"perm": [1, 0]})
    turned.name, turned.outputs[0].name = f"{name}.transpose", f"{name}.weight_t"
    turned.outputs[0].type, turned.outputs[0].shape = like.type, ir.Shape((k, n))
    whole = _node("MatMul", [first.inputs[0], turned.outputs[0]], name, like, n)
    whole.metadata_props.update(first.metadata_props)
    made += [turned, whole]
    if bias_of(group[0]) is not None:
        bias = np.concatenate([_array(bias_of(one)) for one in group])
        held = initializer(graph, f"{name}.bias", from_array(f"{name}.bias", bias))
        made.append(_node("Add", [whole.outputs[0], held], f"{name}.bias_add", like, n))
    last, start = made[-1].outputs[0], 0
    cuts = []
    for one in group:
        cuts.append(_cut(graph, last, (start, start + one.shape[0]), one))
        start += one.shape[0]
    graph.insert_before(first, [*made, *cuts])
    for one, cut in zip(group, cuts, strict=True):
        _replace(graph, one, cut)
    line = next((module.decisions.pop(one.name) for one in group if one.name in module.decisions), None)
    if line is not None:
        module.decisions[name] = line


def _weight(graph: ir.Graph, name: str, group: Sequence[Linear]) -> list[ir.Node]:
    """Register the weight of all; the op that dequantises it, if it is integers."""
    tensors = joined_tensors(name, group)
    values = [initializer(graph, tensor.name, tensor) for tensor in tensors]
    quant = group[0].quant
    if quant is None:
        return []
    node = ir.Node(
        quant.node.domain,
        quant.node.op_type,
        values,
        list(quant.node.attributes.values()),
        outputs=[
            ir.Value(name=f"{name}.weight.dequantised", type=group[0].value.type, shape=ir.Shape(tensors[0].dims))
        ],
        name=f"{name}.dequant",
    )
    return [node]


def _cut(graph: ir.Graph, whole: ir.Value, ends: tuple[int, int], linear: Linear) -> ir.Node:
    """The part of `linear` in the result, named like the op whose value it is."""
    like = behind_bias(linear)
    producer = like.producer()
    name = linear.name if producer is None else producer.name or linear.name
    axis = len(whole.shape or ()) - 1
    bounds = [
        initializer(graph, f"{linear.name}.{key}", from_array("", np.array([number], np.int64)))
        for key, number in (("start", ends[0]), ("stop", ends[1]), ("axis", axis))
    ]
    node = ir.node("Slice", [whole, *bounds], name=name)
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = f"{name}.part", like.type, like.shape
    return node


def _replace(graph: ir.Graph, linear: Linear, cut: ir.Node) -> None:
    old, node = behind_bias(linear), linear.node
    behind = old.producer()
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, cut.outputs[0])
    cut.outputs[0].name = old.name
    graph.remove([node] if behind is node or behind is None else [behind, node], safe=True)


def _node(op: str, inputs: Sequence[ir.Value | None], name: str, like: ir.Value, width: int) -> ir.Node:
    shape = ir.Shape([*list(like.shape or ())[:-1], width])
    output = ir.Value(name=f"{name}.out", type=like.type, shape=shape)
    return ir.Node("", op, inputs, outputs=[output], name=name)


def _array(value: ir.Value | None) -> np.ndarray:
    held = constant(value)
    if held is None:
        raise ValueError("a bias that is no constant")
    return numbers(held)
