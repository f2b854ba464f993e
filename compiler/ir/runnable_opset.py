"""The opset that a graph is written at: ours, or an older one where ONNX Runtime lacks ops of ours.

Opset 22 gave many ops more types and nothing else. ONNX Runtime 1.31 has not registered a few of them anew: it knows
them up to 21, where they compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx.defs
import onnx_ir as ir

_LEFT_BEHIND = frozenset({"GlobalLpPool", "MaxRoiPool", "RoiAlign"})
_LAST = 21


def runnable_opset(model: ir.Model) -> Mapping[str, int]:
    """ONNX's own domain with another version, where `model` has ops that are left behind and none that came later."""
    nodes = [node for node in model.graph.all_nodes() if node.domain in ("", "ai.onnx")]
    if not any(node.op_type in _LEFT_BEHIND for node in nodes) or not all(_is_old(node) for node in nodes):
        return {}
    return {"": _LAST}


def _is_old(node: ir.Node) -> bool:
    """Whether that opset has the op with the attributes and as many inputs as the node has."""
    if not onnx.defs.has(node.op_type, _LAST):
        return False
    schema = onnx.defs.get_schema(node.op_type, _LAST)
    return node.attributes.keys() <= schema.attributes.keys() and len(node.inputs) <= schema.max_input
