"""Linears over bit planes in place of MatMul over dequantised integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from ...compiler.ir.annotations import Transform
from ...compiler.ir.bit_planes import EXTENT, PANEL, panels, to_panels, to_planes
from ...compiler.ir.linears import Linear, QuantizedWeight, linears
from ...compiler.ir.module import Module, drop_unread_nodes, drop_unused_initializers, initializer
from ...compiler.ir.ops.lut_gemv import LutGemv
from ...compiler.ir.sparsity import PACKED_SPARSITY, SPARSITY
from ...compiler.ir.weights import Weight, derive, from_array
from ...compiler.pipeline.pass_interface import FiguresTable, Scope

BLOCKS = (32, 64, 128)
PROMPT = 9  # tokens, from which on a call is a prompt: rounds of speculation have eight at most


def rewrite(module: Module, scope: Scope, widths: Sequence[int], *, tables: int, always: bool, prefill: str) -> int:
    """Replace what the line selects and the op can hold; how many linears that were."""
    found = list(_taken(module, scope, widths))
    if not always:
        uses: dict[ir.Value, list[str]] = {}
        for linear in linears(module):
            uses.setdefault(linear.initializer, []).append(linear.name)
        rows: list[tuple[str, ...]] = []
        found = [linear for linear in found if _worth(linear, uses[linear.initializer], scope, tables, rows)]
        if rows:
            how = "measured here" if scope.on_host else "estimated"
            head = ("linear", "by lookup, us", "by MatMulNBits, us", "chosen")
            scope.table(FiguresTable(f"one token, {how}", head, tuple(rows)))
    for linear in found:
        _replace(module, linear, tables, PROMPT if _dequantises(linear, scope, tables, prefill) else 0)
    drop_unread_nodes(module.main.graph, lambda node: node.op_type in ("Transpose", "DequantizeLinear"))
    drop_unused_initializers(module.main.graph)
    return len(found)


def _taken(module: Module, scope: Scope, widths: Sequence[int]) -> Iterator[Linear]:
    for linear in linears(module):
        if linear.kind == "own" or not scope.selects(linear.name):
            continue
        why = _refusal(linear, widths)
        if why is None:
            yield linear
        else:
            scope.skip(linear.node, why)


def _refusal(linear: Linear, widths: Sequence[int]) -> str | None:
    """Why the op cannot hold a linear; None if it can."""
    quant = linear.quant
    if linear.kind == "gather":
        return "an embedding is looked up by rows as it is"
    if linear.kind == "conv":
        return "a convolution is no product with a matrix"
    if quant is None:
        return "its weight is float: `quantize` it first"
    if linear.kind != "matmul" or not linear.rows_are_outputs:
        return "it is no MatMul with a weight [outputs, inputs]"
    bits = quant.format.bits
    if bits > 4:
        return f"its integers have {bits} bits, tables serve 1 to 4"
    if bits not in widths:
        return f"`bits` does not name {bits}"
    if quant.minimum is not None:
        return "its blocks have a float minimum, not a zero point"
    if quant.block not in BLOCKS:
        held = "it has one scale per output" if quant.block is None else f"its blocks have {quant.block} inputs"
        return f"{held}, kernels take blocks of 32, 64 or 128"
    if linear.shape[1] % EXTENT:
        return f"groups of {EXTENT} inputs do not divide {linear.shape[1]}"
    return None


def _worth(linear: Linear, users: Sequence[str], scope: Scope, tables: int, rows: list[tuple[str, ...]]) -> bool:
    """Whether lookup is faster here; `auto`. `users`: all linears with this weight; `rows`: of the table of figures."""
    others = [name for name in users if name != linear.name]
    if others:
        return scope.skip(linear.node, f"it shares its weight with `{others[0]}`, planes would be a second copy")
    if scope.dry and scope.on_host:
        return True
    found = _measured(linear, scope, tables) if scope.on_host else _estimated(linear, scope, tables)
    if found is None:
        return False
    said, (lookup, other) = found
    taken = lookup < other
    rows.append((linear.name, _microseconds(lookup), _microseconds(other), "lookup" if taken else "MatMulNBits"))
    return True if taken else scope.skip(linear.node, said)


def _measured(linear: Linear, scope: Scope, tables: int) -> tuple[str, tuple[float, float]] | None:
    from .host_times import times

    quant = _quant(linear)
    held = times(linear.shape[0], linear.shape[1], quant.format.bits, quant.block or 0, tables)
    if held is None:
        scope.skip(linear.node, "there is no kernel on this machine to measure")
        return None
    said = f"one token takes {_microseconds(held[0])} us by lookup and {_microseconds(held[1])} us by MatMulNBits"
    return said, held


def _estimated(linear: Linear, scope: Scope, tables: int) -> tuple[str, tuple[float, float]] | None:
    from .device_times import estimate, worst

    quant, found = _quant(linear), []
    for chip in scope.chips:
        zeros = quant.zero_point is not None
        made = estimate(
            chip, linear.shape[0], linear.shape[1], quant.format.bits, quant.block or 0, tables, zeros=zeros
        )
        if made is None:
            scope.skip(linear.node, f"too little is known of `{chip.name}` to estimate (`when = always` takes it)")
            return None
        found.append((chip.name, made))
    name, held = worst(found)
    lookup, other = (f"{_microseconds(seconds)} us" for seconds in held)
    return f"on {name} one token is estimated at {lookup} by lookup and {other} by MatMulNBits", held


def _microseconds(seconds: float) -> str:
    """Two digits at least, so that what is compared differs."""
    return f"{seconds * 1e6:.0f}" if seconds >= 1e-5 else f"{seconds * 1e6:.2g}"


def _dequantises(linear: Linear, scope: Scope, tables: int, prefill: str) -> bool:
    """Whether prompts are multiplied by the weights' values; `auto`: where that ran faster on this machine."""
    if prefill != "auto" or not scope.on_host or scope.dry:
        return prefill == "dequant"
    from .host_times import prompt_times

    quant = _quant(linear)
    found = prompt_times(linear.shape[0], linear.shape[1], quant.format.bits, quant.block or 0, tables)
    return found is not None and found[1] < found[0]


def _quant(linear: Linear) -> QuantizedWeight:
    if linear.quant is None:
        raise ValueError(f"linear `{linear.name}` is not quantised")
    return linear.quant


def _replace(module: Module, linear: Linear, tables: int, dequantise: int) -> None:
    model, quant = module.main, _quant(linear)
    bits, name = quant.format.bits, f"{linear.name}.lookup"
    held = [
        _planes(f"{name}.planes", quant, bits),
        _scales(f"{name}.scale", quant),
        _zeros(f"{name}.zero", quant, bits),
    ]
    old = linear.node.outputs[0]
    made = ir.Value(name=f"{old.name}.lookup", type=old.type, shape=old.shape)
    inputs = [linear.node.inputs[0], *(initializer(model.graph, weight.name, weight) for weight in held)]
    attributes = {"bits": bits, "block_size": quant.block, "outputs": linear.shape[0], "tables": tables}
    attributes["dequantise"] = dequantise
    node = LutGemv().node(model, f"{linear.name}.lookup", inputs, made, **attributes)
    node.metadata_props.update(linear.node.metadata_props)
    model.graph.insert_before(linear.node, node)
    module.bypass(linear.node, made)
    node.name = linear.name


def _planes(name: str, quant: QuantizedWeight, bits: int) -> Weight:
    n, k = quant.q.dims
    shift = (1 << (bits - 1)) if quant.q.dtype.is_signed() else 0

    def rows(start: int, stop: int) -> np.ndarray:
        q = quant.q.rows(start * PANEL, min(stop * PANEL, n)).astype(np.int16)
        u = (q + 1) // 2 if bits == 1 else q + shift
        return to_planes(u.astype(np.uint8), bits)

    shape = (panels(n), k // EXTENT, bits, PANEL // 16, PANEL)
    made = derive(name, ir.DataType.UINT8, shape, rows, quant.q, Transform.PACK, "bit planes")
    if (pattern := SPARSITY.get(quant.q)) is not None:  # the op states it of the integers it holds: it has not ended
        PACKED_SPARSITY.set(made, pattern)
        made.ended = quant.q.ended
    return made


def _scales(name: str, quant: QuantizedWeight) -> Weight:
    n, blocks = quant.scale.dims
    factor = np.float32(2 if quant.format.bits == 1 else 1)

    def rows(start: int, stop: int) -> np.ndarray:
        return to_panels((quant.scale.rows(start * PANEL, min(stop * PANEL, n)) * factor).astype(np.float16))

    shape = (panels(n), blocks, PANEL)
    return derive(name, ir.DataType.FLOAT16, shape, rows, quant.scale, Transform.CAST, "in panels")


def _zeros(name: str, quant: QuantizedWeight, bits: int) -> Weight:
    """Zero points in halves: one for all blocks of a symmetric weight."""
    if quant.q.dtype.is_signed() and quant.zero_point is None:
        return from_array(name, np.full((1, 1, 1), 1 if bits == 1 else 1 << bits, np.uint8))
    n, blocks = quant.scale.dims
    shift = (1 << (bits - 1)) if quant.q.dtype.is_signed() else 0

    def rows(start: int, stop: int) -> np.ndarray:
        count = min(stop * PANEL, n) - start * PANEL
        if quant.zero_point is None:
            return to_panels(np.zeros((count, blocks), np.uint8))
        zero = quant.zero_point.rows(start * PANEL, start * PANEL + count).astype(np.int16)
        return to_panels((2 * (zero + shift)).astype(np.uint8))

    parent = quant.zero_point or quant.q
    return derive(name, ir.DataType.UINT8, (panels(n), blocks, PANEL), rows, parent, Transform.MEASURE, "in halves")
