"""A file of integers in patterns between other bytes, and its packed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.emit.sparse_integers import SparseIntegers
from edgec.compiler.ir.packing import pack_rows
from edgec.compiler.ir.sparse_pattern import Sparsity
from edgec.compiler.packed.pack_file import pack_file


def codes(rows: int, columns: int, pattern: str, zeros: np.ndarray, bits: int, seed: int) -> np.ndarray:
    """Integers [rows, columns] with a pattern; `zeros` are broadcast to the codes for zero."""
    rng, sparsity = np.random.default_rng(seed), Sparsity(pattern)
    shape = (rows, columns // sparsity.group, len(sparsity.units))
    kept = rng.random(shape).argsort(-1) < sparsity.keep
    full = np.concatenate([kept] * len(sparsity.units[0]), axis=-1).reshape(rows, columns)
    return np.where(full, rng.integers(0, 1 << bits, (rows, columns)), zeros).astype(np.uint8)


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Path, Path]:
    """`weights` and `weights.packed`: 2:4 with zero points, pairs and 4:8 integers, with other bytes around them."""
    rng = np.random.default_rng(0)
    points = rng.integers(0, 16, (24, 4)).astype(np.uint8)
    data, tensors, dense = b"head of the file", [], tmp_path / "weights"

    def add(name: str, pattern: str, values: np.ndarray, bits: int, order: str, **zero: object) -> None:
        nonlocal data
        place = (dense.name, name, len(data), *values.shape, bits, order, Sparsity(pattern))
        tensors.append(SparseIntegers(*place, **zero))
        data += pack_rows(values, bits, order).tobytes() + b"scales of " + name.encode()

    spread = np.repeat(points, 32, axis=1)
    add("a", "2:4", codes(24, 128, "2:4", spread, 4, 1), 4, "big", zeros=lambda i, j: points[i:j], run=32)
    add("b", "pairs", codes(16, 64, "pairs", np.array(8), 4, 2), 4, "little", zero=8)
    add("c", "4:8", codes(8, 64, "4:8", np.array(128), 8, 3), 8, "little", zero=128)
    dense.write_bytes(data)
    packed = tmp_path / "weights.packed"
    pack_file(dense, tensors, packed)
    return dense, packed
