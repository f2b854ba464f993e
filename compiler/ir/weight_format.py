"""The format of a quantised weight: how wide its integers are and what shares a scale, and the words for it.

    w = (q - zero_point) * scale        symmetric: no zero point        block None: one scale per output (channel)
    w = q * scale + minimum             scales = minimum: a float in place of the zero point

Imports nothing: a plan's checker may ask about formats before any array library is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import onnx_ir as ir

ScaleKind = Literal["float", "two_level", "minimum"]
TWO_LEVEL: ScaleKind = "two_level"  # an integer of 1 to 15 per block times a float per output (LPBQ)
MINIMUM: ScaleKind = "minimum"  # a float scale and the smallest value, a float too, per block


class Integers(NamedTuple):
    """The integers low, low + step, .., high."""

    low: int
    high: int
    step: int = 1

    @property
    def reach(self) -> int:
        """The largest size that both signs have."""
        return min(self.high, -self.low)


@dataclass(frozen=True)
class WeightFormat:
    """How the integers and scales of a weight are laid out.

    bits       what an integer needs: 1, 2, 3, 4 or 8
    block      inputs that share one scale; None: all inputs of an output (per channel)
    symmetric  without zero points
    method     how the integers were chosen, by the plan's word
    scales     `float`, `two_level` or `minimum`
    positive   no scale below zero, for engines that were not seen to take one
    signed     whether integers have a sign; what `quantize` makes has one if it is symmetric
    stored     bits an integer takes in a file where that is more than `bits`, else None
    ternary    integers of two bits are -1, 0 or 1
    """

    bits: int
    block: int | None
    symmetric: bool
    method: str = "rtn"
    scales: ScaleKind = "float"
    positive: bool = False
    signed: bool | None = None
    stored: int | None = None
    ternary: bool = False

    def __post_init__(self) -> None:
        if self.signed is None:
            object.__setattr__(self, "signed", self.symmetric)
        if self.stored == self.bits:
            object.__setattr__(self, "stored", None)

    @property
    def dtype(self) -> ir.DataType:
        """The type `quantize` holds integers in: those of 2 and 3 bits in the narrowest that ONNX Runtime runs."""
        import onnx_ir as ir

        width = 4 if self.bits <= 4 else 8
        return ir.DataType[f"INT{width}" if self.signed else f"UINT{width}"]

    @property
    def integers(self) -> Integers:
        """Those that `quantize` chooses from: of one bit -1 and 1, of more around zero or from zero up."""
        if self.ternary or (self.bits == 1 and self.symmetric):
            return Integers(-1, 1, 2 if self.bits == 1 else 1)
        half = 1 << (self.bits - 1)
        return Integers(-half, half - 1) if self.symmetric else Integers(0, 2 * half - 1)

    @property
    def stored_bits(self) -> int:
        """Bits an integer takes in a file."""
        return self.stored or self.bits

    @property
    def granularity(self) -> str:
        """What shares a scale: `block 32` or `per channel`."""
        return "per channel" if self.block is None else f"block {self.block}"

    def describe(self) -> str:
        """The format in words, the same wherever it is shown: `int4 block 32 symmetric`.

        Behind a comma what is out of the ordinary: `int3 per channel asymmetric, stored in 4 bits`.
        """
        sign = "u" if self.symmetric and not self.signed else ""
        kind = "ternary" if self.ternary else f"{sign}int{self.bits}"
        words = [f"{kind} {self.granularity} {'symmetric' if self.symmetric else 'asymmetric'}"]
        words += ["two-level scales"] if self.scales == TWO_LEVEL else []
        words += ["smallest value per block"] if self.scales == MINIMUM else []
        words += [f"stored in {self.stored} bits"] if self.stored else []
        return ", ".join(words)

    def stored_in(self, bits: int | None) -> WeightFormat:
        """The format with integers that take `bits` in a file; None: as many as they need."""
        return replace(self, stored=bits)

    def size(self, outputs: int, inputs: int) -> int:
        """Bits of a weight [outputs, inputs]: integers, and per block a float16 scale and a zero point or minimum."""
        shared = 32 if self.scales == MINIMUM else 16 + (0 if self.symmetric else self.stored_bits)
        return outputs * inputs * self.stored_bits + outputs * (inputs // (self.block or inputs)) * shared

    def entry(self) -> dict[str, Any]:
        """The columns of a weight's row in a manifest; `dtype` is the type in the bundle's files."""
        return {
            "dtype": f"{'' if self.signed else 'u'}int{self.stored_bits}",
            "bits": self.bits,
            "block": self.block,
            "symmetric": self.symmetric,
            "scales": self.scales,
            **({"ternary": True} if self.ternary else {}),
        }

    @classmethod
    def of_entry(cls, row: Mapping[str, Any]) -> WeightFormat | None:
        """The format that a manifest's row states; None for a float weight. Rows of older bundles have no `scales`."""
        if row.get("symmetric") is None:
            return None
        dtype = row["dtype"]
        stored = int(dtype.rpartition("int")[2])
        return cls(
            row.get("bits") or stored,
            row.get("block"),
            row["symmetric"],
            scales=row.get("scales") or "float",
            signed=not dtype.startswith("u"),
            stored=stored,
            ternary=row.get("ternary", False),
        )

    def __str__(self) -> str:
        return self.describe()
