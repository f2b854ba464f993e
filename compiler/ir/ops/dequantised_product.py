"""`LutGemv` as `LutDequant` and MatMul: the same product from the same planes, for many rows of activations.

y = LutGemv(x, planes, scale, zero)   ->   y = MatMul(x, LutDequant(planes, scale, zero))
"""

from __future__ import annotations

import onnx_ir as ir

from .lut_dequant import LutDequant


def multiply_dequantised(model: ir.Model, node: ir.Node) -> None:
    """Replace `node`, a LutGemv of `model`, by the two ops; its output keeps its name."""
    graph, name = node.graph, node.name or "linear"
    if graph is None:
        raise ValueError(f"node `{name}` is in no graph")
    attributes = {key: node.attributes.get_int(key, 0) for key in ("bits", "block_size", "outputs")}
    weight = ir.Value(name=f"{name}.values", type=ir.TensorType(ir.DataType.FLOAT))
    held = [value for value in node.inputs[1:] if value is not None]
    product = ir.node("MatMul", [node.inputs[0], weight], name=name)
    for made in (LutDequant().node(model, f"{name}.dequantised", held, weight, **attributes), product):
        graph.insert_before(node, made)
    product.metadata_props.update(node.metadata_props)
    old, new = node.outputs[0], product.outputs[0]
    new.shape, new.type, kept = old.shape, old.type, old.name
    old.name = f"{name}.replaced"
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = kept
    graph.remove(node, safe=True)
