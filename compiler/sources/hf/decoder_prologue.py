"""What all layers of a decoder share: cos and sin of its rotary embeddings, and the mask of layers with a window.

A window of W positions adds to the mask what the distance of two positions says; a past slot j holds position j:

    distance = position[s] - (j | position[t])                    [B,S,P | S]
    mask     = mask + clip((W - 1 - distance) * 1000, -1000, 0)   [B,1,S,T]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...ir.decoder_arch import DecoderArch
from ...ir.opset import MASKED
from ...ir.rope import RopeSpec
from .graph_builder import GraphBuilder

Turns = dict[RopeSpec, tuple[ir.Value, ir.Value]]
_MASK_BOUNDS = {"masked": MASKED, "zero": 0.0}


@dataclass(frozen=True)
class Shared:
    """Inputs of the graph that the prologue reads; `past` is any past key."""

    positions: ir.Value
    mask: ir.Value
    past: ir.Value


def prologue(b: GraphBuilder, arch: DecoderArch, context: int, inputs: Shared) -> tuple[Turns, ir.Value]:
    """cos and sin of each rotary embedding, and the mask of layers with a window: `mask` where none has one."""
    turns: Turns = {}
    if not arch.ropes() and not arch.windowed:
        return turns, inputs.mask
    x = b.op("Cast", "rotary.cast", [inputs.positions], ("B", "S"), to=int(ir.DataType.FLOAT))
    axes = b.constant("rotary.axes", np.array([2], np.int64))
    column = b.op("Unsqueeze", "rotary.unsqueeze", [x, axes], ("B", "S", 1))
    for name, rope in arch.ropes().items():
        turns[rope] = _rotary(b, name, rope, arch.head_dim, column)
    return turns, _window(b, arch.window, context, inputs, column) if arch.windowed and arch.window else inputs.mask


def _rotary(b: GraphBuilder, name: str, rope: RopeSpec, head_dim: int, column: ir.Value) -> tuple[ir.Value, ir.Value]:
    """cos and sin of position * frequency, [B,S,D/2], times the attention factor where scaling has one."""
    half = head_dim // 2
    frequencies = np.array(rope.inverse_frequencies(head_dim), np.float32).reshape(1, 1, half)
    shape = ("B", "S", half)
    angle = b.op("Mul", f"{name}.angle", [column, b.constant(f"{name}.inv_freq", frequencies)], shape)
    cos, sin = (b.op(op, f"{name}.{op.lower()}", [angle], shape) for op in ("Cos", "Sin"))
    if rope.attention_factor == 1.0:
        return cos, sin
    factor = b.constant(f"{name}.attention_factor", np.array(rope.attention_factor, np.float32))
    return (
        b.op("Mul", f"{name}.cos_scaled", [cos, factor], shape),
        b.op("Mul", f"{name}.sin_scaled", [sin, factor], shape),
    )


def _window(b: GraphBuilder, window: int, context: int, inputs: Shared, column: ir.Value) -> ir.Value:
    """The mask of layers with a window, from the plain mask and the positions as a column [B,S,1]."""
    past_length = b.op("Shape", "window.length_of_past", [inputs.past], (1,), ir.DataType.INT64, start=2, end=3)
    slots = b.constant("window.positions", np.arange(context, dtype=np.float32))
    first, axis = (b.constant(f"window.{name}", np.array([0], np.int64)) for name in ("first", "axis"))
    past = b.op("Slice", "window.past", [slots, first, past_length, axis], ("P",))
    past = b.op("Sub", "window.distance_of_past", [column, past], ("B", "S", "P"))
    row = b.op("Transpose", "window.row", [column], ("B", 1, "S"), perm=[0, 2, 1])
    new = b.op("Sub", "window.new_distance", [column, row], ("B", "S", "S"))
    shape = ("B", "S", "T")
    distance = b.op("Concat", "window.distance", [past, new], shape, axis=-1)
    last = b.constant("window.last", np.array(window - 1, np.float32))
    inside = b.op("Sub", "window.inside", [last, distance], shape)
    masked, zero = (b.constant(f"window.{name}", np.array(value, np.float32)) for name, value in _MASK_BOUNDS.items())
    slope = b.constant("window.slope", np.array(-MASKED, np.float32))
    steep = b.op("Mul", "window.steep", [inside, slope], shape)
    cut = b.op("Clip", "window.cut", [steep, masked, zero], shape)
    axes = b.constant("window.axes", np.array([1], np.int64))
    by_head = b.op("Unsqueeze", "window.by_head", [cut, axes], ("B", 1, "S", "T"))
    return b.op("Add", "window.mask", [inputs.mask, by_head], ("B", 1, "S", "T"))
