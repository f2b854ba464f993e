"""About how long a case takes on two cores: compiled for HTP, run on its emulator and in the oracle.

linear      1 + k n (w + a tokens)      w: compile and one pass over the weights, a: each token more
attention   1 + heads tokens context b
other       1 + c elements
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ....compiler.emit.conformance.op_class import Cell

LINEARS = ("matmul", "matmul_nbits", "u16.linear", "u8.linear")
_LEAST = 1.0
_WEIGHT = {"matmul": 1.1e-7, "matmul_nbits": 2.6e-7, "u16.linear": 1.5e-7, "u8.linear": 1.5e-7}
_TOKEN = {"matmul": 2e-9, "matmul_nbits": 5e-9, "u16.linear": 1e-8, "u8.linear": 1e-8}
_SCORE, _ELEMENT = 2e-7, 1e-6
_NUMBERS = ("rows", "size", "elements", "channels", "vocab")


def seconds(lowering: str, shape: Iterable[tuple[str, Cell]]) -> float:
    """An estimate, good to a factor of three."""
    cells = dict(shape)
    numbers = {name: float(value) for name, value in cells.items() if isinstance(value, int | float)}
    if lowering in LINEARS:
        weights = numbers["k"] * numbers["n"]
        return _LEAST + weights * (_WEIGHT[lowering] + _TOKEN[lowering] * numbers["tokens"])
    if lowering.endswith("attention"):
        return _LEAST + _SCORE * numbers["heads"] * numbers["tokens"] * numbers["context"]
    size = math.prod(numbers.get(name, 1.0) for name in _NUMBERS)
    return _LEAST + _ELEMENT * size
