"""Ops that ONNX Runtime has in ONNX's own domain before ONNX had them there, as ONNX's ops of today.

    SimplifiedLayerNormalization        ->   RMSNormalization (opset 23), the same algebra and attributes
    LayerNormalization before opset 17  ->   LayerNormalization

They wait in ONNX Runtime's domain while the graph is brought to the newest opset, where ONNX's tools pass them by.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx.defs
import onnx_ir as ir

from .refusals import all_graphs

_NOW: Mapping[str, str] = {
    "SimplifiedLayerNormalization": "RMSNormalization",
    "LayerNormalization": "LayerNormalization",
}
_WAITING = "com.microsoft"


def set_aside(proto: onnx.ModelProto) -> None:
    """Move such ops of the graphs in `proto` to ONNX Runtime's domain."""
    version = {entry.domain: entry.version for entry in proto.opset_import}.get("", 0)
    if not 1 <= version <= onnx.defs.onnx_opset_version():
        return
    unlisted = [name for name in _NOW if not onnx.defs.has(name, version)]
    nodes = [node for graph in all_graphs(proto) for node in graph.node if not node.domain and node.op_type in unlisted]
    for node in nodes:
        node.domain = _WAITING
    if nodes and all(entry.domain != _WAITING for entry in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid(_WAITING, 1))


def take_back(model: ir.Model) -> bool:
    """Make them ONNX's ops; whether there are any, whose results then have shapes to infer."""
    nodes = [node for node in model.graph.all_nodes() if node.domain == _WAITING and node.op_type in _NOW]
    for node in nodes:
        node.domain, node.op_type = "", _NOW[node.op_type]
    return bool(nodes)
