"""An emitted graph with standard operators in place of ONNX Runtime's own: what `verify` holds the engine against.

    MatMulNBits(x, B, scales[, zero points][, bias])     ->  MatMul(x, Transpose(W))         W float32 [N, K]
    GatherBlockQuantized(B, ids, scales[, zero points])  ->  Gather(W, ids)

W is made row by row of the bytes in the file, by the layout that `pack.py` states and not by the code that wrote them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...compiler.ir.module import constant, drop_unread_nodes, drop_unused_initializers, initializer
from ...compiler.ir.packing import unpack_rows
from ...compiler.ir.weights import Weight
from .lower import DOMAIN
from .pack import block_count
from .read_back import behind_cast

_WRITTEN = ("MatMulNBits", "GatherBlockQuantized")


def plain(path: Path) -> ir.Model:
    """The graph of the file at `path` without the ops that `lower.py` writes; what else the model had stays."""
    model = ir.load(path)
    made: dict[tuple[str, int], ir.Value] = {}
    for node in list(model.graph):
        if node.domain == DOMAIN and node.op_type in _WRITTEN:
            _replace(model.graph, node, made)
    drop_unread_nodes(model.graph, lambda node: node.op_type == "Cast")  # of scales
    drop_unused_initializers(model.graph)
    for value in model.graph.initializers.values():  # no longer bound to the file's folder
        value.const_value = constant(value)
    return model


def _replace(graph: ir.Graph, node: ir.Node, made: dict[tuple[str, int], ir.Value]) -> None:
    looked_up = node.op_type == "GatherBlockQuantized"
    stored = node.inputs[0 if looked_up else 1]
    if stored is None:
        raise ValueError(f"`{node.name}` has no weight")
    key = stored.name or "", int(looked_up)
    if key not in made:
        weight = _weight(node, looked_up)
        made[key] = initializer(graph, weight.name, weight)
    if looked_up:
        nodes = [ir.node("Gather", [made[key], node.inputs[1]], {"axis": 0}, name=node.name)]
    else:
        turned = ir.node("Transpose", [made[key]], {"perm": [1, 0]}, name=f"{node.name}.plain_transpose")
        nodes = [turned, ir.node("MatMul", [node.inputs[0], turned.outputs[0]], name=node.name)]
        if len(node.inputs) > 5 and node.inputs[5] is not None:
            nodes.append(ir.node("Add", [nodes[-1].outputs[0], node.inputs[5]], name=f"{node.name}.plain_bias"))
    for one in nodes:
        graph.insert_before(node, one)
    for index, one in enumerate(nodes[:-1]):
        one.outputs[0].name = f"{node.name}.plain_{index}"
    old, new = node.outputs[0], nodes[-1].outputs[0]
    new.shape, new.type, new.name, old.name = old.shape, old.type, old.name, f"{old.name}.replaced"
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _weight(node: ir.Node, looked_up: bool) -> Weight:
    """The float32 rows [N, K] that the op multiplies by, or looks up."""
    bits, block = node.attributes.get_int("bits", 4), node.attributes.get_int("block_size", 0)
    places = (0, 2, 3) if looked_up else (1, 2, 3)
    held = [constant(behind_cast(node.inputs[i])) if i < len(node.inputs) else None for i in places]
    q, scale, zero = held
    if q is None or scale is None or block <= 0:
        raise ValueError(f"`{node.name}` has no weight or no block")
    rows = q.dims[0]
    columns = 8 * int(np.prod(q.dims[1:], dtype=np.int64)) // bits
    wide = columns if looked_up else node.attributes.get_int("K", 0)
    blocks = block_count(wide, block)

    def numbers(start: int, stop: int) -> np.ndarray:
        count = stop - start
        codes = unpack_rows(q.rows(start, stop).reshape(count, -1), bits, blocks * block, "little")
        values = codes.reshape(count, blocks, block).astype(np.float32) - _zero(zero, start, stop, bits, blocks)
        values *= scale.rows(start, stop).astype(np.float32).reshape(count, blocks, 1)
        return values.reshape(count, -1)[:, :wide]

    return Weight(f"{node.name}.plain", ir.DataType.FLOAT, (rows, wide), numbers, "read from the file")


def _zero(zero: Weight | None, start: int, stop: int, bits: int, blocks: int) -> np.ndarray:
    if zero is None:
        return np.full((stop - start, 1, 1), 1 << (bits - 1), np.float32)
    stored = zero.rows(start, stop).reshape(stop - start, -1)
    if not zero.dtype.is_floating_point():
        stored = unpack_rows(stored, bits, blocks, "little")
    return stored.astype(np.float32).reshape(stop - start, blocks, 1)
