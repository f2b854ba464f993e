"""The format of a quantised weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

FORMAT = "edgec.format"  # key in the `meta` of integers: the format they were made in


@dataclass(frozen=True)
class WeightFormat:
    """How integers and scales are laid out; `block` None means one scale per row."""

    bits: int
    block: int | None
    symmetric: bool
    method: str = "rtn"
    scales: str = "float"  # "lpbq": an integer of 1 to 15 per block times a float per row (two_level)
    positive: bool = False  # no scale below zero, where what runs it was not seen to take one

    @property
    def dtype(self) -> ir.DataType:
        """The type integers are held in; those of 2 and 3 bits lie in the narrowest that ONNX Runtime runs."""
        import onnx_ir as ir  # here: the plan's checker reads formats and must stay light

        width = 4 if self.bits <= 4 else 8
        return ir.DataType[f"INT{width}" if self.symmetric else f"UINT{width}"]

    def __str__(self) -> str:
        grain = "per channel" if self.block is None else f"block {self.block}"
        return f"{'' if self.symmetric else 'u'}int{self.bits} {grain}{' lpbq' if self.scales == 'lpbq' else ''}"
