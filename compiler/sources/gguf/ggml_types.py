"""The types of ggml's tensors: how many weights of a row make a block, how many bytes a block takes.

The numbers are those of the package `gguf` (`constants.GGML_QUANT_SIZES`), written down here because importing it
brings numpy, which `edgec check` does without; a test compares the two. What a block means is left to the package.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GgmlType:
    """`block` weights of a row are stored in `size` bytes; `read`: whether the package `gguf` makes floats of them."""

    name: str
    block: int
    size: int
    read: bool = True

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` weights, which are a multiple of `block`."""
        return columns // self.block * self.size


TYPES = {
    0: GgmlType("F32", 1, 4),
    1: GgmlType("F16", 1, 2),
    2: GgmlType("Q4_0", 32, 18),
    3: GgmlType("Q4_1", 32, 20),
    6: GgmlType("Q5_0", 32, 22),
    7: GgmlType("Q5_1", 32, 24),
    8: GgmlType("Q8_0", 32, 34),
    9: GgmlType("Q8_1", 32, 40, read=False),
    10: GgmlType("Q2_K", 256, 84),
    11: GgmlType("Q3_K", 256, 110),
    12: GgmlType("Q4_K", 256, 144),
    13: GgmlType("Q5_K", 256, 176),
    14: GgmlType("Q6_K", 256, 210),
    15: GgmlType("Q8_K", 256, 292, read=False),
    16: GgmlType("IQ2_XXS", 256, 66),
    17: GgmlType("IQ2_XS", 256, 74),
    18: GgmlType("IQ3_XXS", 256, 98),
    19: GgmlType("IQ1_S", 256, 50),
    20: GgmlType("IQ4_NL", 32, 18),
    21: GgmlType("IQ3_S", 256, 110),
    22: GgmlType("IQ2_S", 256, 82),
    23: GgmlType("IQ4_XS", 256, 136),
    24: GgmlType("I8", 1, 1, read=False),
    25: GgmlType("I16", 1, 2, read=False),
    26: GgmlType("I32", 1, 4, read=False),
    27: GgmlType("I64", 1, 8, read=False),
    28: GgmlType("F64", 1, 8, read=False),
    29: GgmlType("IQ1_M", 256, 56),
    30: GgmlType("BF16", 1, 2),
    34: GgmlType("TQ1_0", 256, 54),
    35: GgmlType("TQ2_0", 256, 66),
    39: GgmlType("MXFP4", 32, 17),
    40: GgmlType("NVFP4", 64, 36),
    41: GgmlType("Q1_0", 128, 18, read=False),
}
