"""How long one linear takes on a chip that is not at hand, by lookup and by MatMulNBits: an estimate.

    seconds   = max(instructions / rate, bytes / half the bandwidth) + what is done once a token, on the fastest core
    rate      = 2 instructions a cycle on all cores but the slowest kind        bandwidth: the device table's peak
    lookup    = N K i(bits) t instructions, planes and scales once; tables of t tokens that no L2 holds once a panel
    other     = N K i t instructions, integers of 2 or 4 bits and float32 scales

i are instructions a weight, counted in an emulator with `benchmarks/lookup_instructions.py`; a TBL over four registers
counts as two, since Arm's cores start half as many of them. The other side is int4 by SDOT, written by us. Cores whose
dot products are not known are not judged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...compiler.ir.bit_planes import PANEL, panels
from ...compiler.pipeline.pass_interface import SUSTAINED, Chip, fast_cycles
from .host_times import stored_bits

_LOOKUP = {  # by the bits of a table's entry and of an integer: `neon_dot`
    8: {1: 0.144, 2: 0.242, 3: 0.341, 4: 0.453},
    16: {1: 0.263, 2: 0.440, 3: 0.713, 4: 1.020},
    32: {1: 1.05, 2: 1.81, 3: 2.58, 4: 3.35},
}
_MULTIPLY = 0.362
_TABLES = 13.0  # an input of a token
_ROUND = 1.5  # an input of a token, rounded to int8: a load, its share of the largest, a product, a narrowing, a store
_A_CYCLE = 2
_L2 = 256 << 10  # bytes, the least that fast cores are built with
_DOT = re.compile(r"Cortex-(X\d+|A(55|510|520|75|76|77|78|7\d\d))\b|Oryon\b")


def estimate(
    chip: Chip, outputs: int, inputs: int, bits: int, block: int, tables: int, tokens: int = 1, zeros: bool = False
) -> tuple[float, float] | None:
    """Seconds of both for `tokens` rows; None where the device table tells too little of the chip."""
    if chip.bandwidth_gbs is None or not chip.cores or not all(_DOT.match(core.name) for core in chip.cores):
        return None
    rate, one = _A_CYCLE * fast_cycles(chip.cores), _A_CYCLE * 1e9 * max(core.ghz for core in chip.cores)
    bandwidth = chip.bandwidth_gbs * 1e9 * SUSTAINED
    size, blocks = outputs * inputs, outputs * inputs / block

    def seconds(instructions: float, read: float, once: float) -> float:
        return max(size * instructions * tokens / rate, read / bandwidth) + inputs * once * tokens / one

    held = tokens * inputs * 4 * tables // 8
    again = held * panels(outputs) if held > _L2 else 0
    padded = panels(outputs) * PANEL / outputs
    own = (size * bits / 8 + blocks * (3 if zeros else 2)) * padded + again
    width = stored_bits(bits)
    other = size * width / 8 + blocks * (4 + (width / 8 if zeros else 0))
    return seconds(_LOOKUP[tables][bits] * padded, own, _TABLES), seconds(_MULTIPLY, other, _ROUND)


def worst(found: Sequence[tuple[str, tuple[float, float]]]) -> tuple[str, tuple[float, float]]:
    """Of several chips' estimates by name the one where lookup gains least: a module is made once for all."""
    return max(found, key=lambda one: one[1][0] / one[1][1])
