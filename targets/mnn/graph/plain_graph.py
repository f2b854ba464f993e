"""Beside a `.mnn` its graph in plain operators, whose weights are the bytes that MNN reads.

    <file>.plain.onnx     MatMul(x, Transpose(Cast(W)))     W f16[N, K] or f32[N, K] at its offset in <file>.mnn.weight

`verify` holds MNN beside it. It is a few kB, and no weight is stored twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from ....compiler.files.full_disk import writes
from ....compiler.ir.clone import clone_model
from ....compiler.ir.linears import as_linear
from ....compiler.ir.module import drop_unread_nodes, drop_unused_initializers
from ..file.read_back import weight_file

if TYPE_CHECKING:
    from ..file.weight_blobs import Blob

_FLOATS = {16: ir.DataType.FLOAT16, 32: ir.DataType.FLOAT}
_INLINE = 1 << 16  # bytes of constants that the graph may hold itself


def write_plain(model: ir.Model, blobs: Mapping[str, Blob], path: Path) -> Path | None:
    """Write the graph of the `.mnn` at `path`; None where a weight of it has no plain form in the weight file."""
    copy = clone_model(model)
    for node in list(copy.graph):
        linear = as_linear(node)
        if linear is None:
            continue
        blob = blobs.get(linear.name)
        if blob is None or blob.bits not in _FLOATS or node.op_type != "MatMul":
            return None
        _read_from(copy.graph, node, blob, weight_file(path))
    drop_unread_nodes(copy.graph, lambda node: node.op_type in ("Transpose", "Cast"))
    drop_unused_initializers(copy.graph)
    held = (value.const_value for value in copy.graph.initializers.values())
    if sum(one.nbytes for one in held if one is not None and not isinstance(one, ir.ExternalTensor)) > _INLINE:
        return None
    made = path.with_suffix(".plain.onnx")
    with writes(made):
        made.write_bytes(ir.to_proto(copy).SerializeToString(deterministic=True))
    return made


def _read_from(graph: ir.Graph, node: ir.Node, blob: Blob, file: Path) -> None:
    """Let the product `node` read its rows [N, K] from the weight file."""
    name, dtype = f"{node.name}.shipped", _FLOATS[blob.bits]
    shape = ir.Shape([blob.rows, blob.columns])
    tensor = ir.ExternalTensor(
        file.name, blob.offset, blob.code_bytes, dtype, shape=shape, name=name, base_dir=str(file.parent)
    )
    rows = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=tensor)
    graph.register_initializer(rows)
    cast = ir.node("Cast", [rows], {"to": int(ir.DataType.FLOAT)}, name=f"{name}.cast")
    turned = ir.node("Transpose", [cast.outputs[0]], {"perm": [1, 0]}, name=f"{name}.turned")
    for made in (cast, turned):
        made.outputs[0].name = f"{made.name}.out"
        graph.insert_before(node, made)
    node.replace_input_with(1, turned.outputs[0])
