"""Attention whose past is joined to the new keys and values outside the op.

    Attention(q, k, v, mask, past_k, past_v) -> y, present_k, present_v
      ->  Attention(q, Concat(past_k, k), Concat(past_v, v), mask) -> y              past [B,G,P,D], new [B,G,S,D]

ONNX Runtime demands the presents wherever there is a past, and frees a value that nobody reads only when the call ends:
so the whole cache would be allocated once more in every call, of all layers at once (1.2 GB for 36 layers of 8 heads of
128 channels at 4,096 positions). It joins them by the same copy itself; what is computed is the same, bit for bit.
"""

from __future__ import annotations

import onnx_ir as ir

_PAST = slice(4, 6)
_LENGTHS = 6  # the input behind them, and what follows it, counts positions another way


def join_past(graph: ir.Graph) -> None:
    """Rewrite every Attention of `graph` whose presents nobody reads, in place."""
    for node in list(graph):
        past = node.inputs[_PAST]
        if node.op_type != "Attention" or node.domain not in ("", "ai.onnx") or None in past or len(past) < 2:
            continue
        read = any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
        counted = any(value is not None for value in node.inputs[_LENGTHS:])
        if read or counted or node.attributes.get_int("is_causal", 0):
            continue
        for index, held in enumerate(past):
            new, present = node.inputs[1 + index], node.outputs[1 + index]
            name = f"{node.name}.{('keys', 'values')[index]}"
            join = ir.node("Concat", [held, new], {"axis": 2}, name=name)
            made = join.outputs[0]
            made.name, made.type, made.shape = f"{name}.out", present.type, present.shape
            graph.insert_before(node, join)
            node.replace_input_with(1 + index, made)
            node.replace_input_with(_PAST.start + index, None)
        node.resize_inputs(_PAST.start)
        node.resize_outputs(1)
