"""Packed weight files: bytes, and GB/s of dense int4 bytes, by CPU time of one core.

A linear of 4,096 outputs and inputs in int4, blocks of 32, symmetric with float16 scales behind it. `bits` are those
of a weight, scales included, `of dense` the packed file's bytes of the dense one's, table and header included. `pack`
and `restore` are the kernels alone, in C and in numpy; `file` packs and unpacks a file, with the sha256 of the dense
bytes and, while packing, a reading back. `--rounds` takes the best of several.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, report, scratch

SIZE, BLOCK = 4096, 32
PATTERNS = ("2:4", "pairs", "4:8", "1:4")


def codes(pattern: str) -> np.ndarray:
    """Integers [SIZE, SIZE] with a pattern, zero at 8."""
    from edgec.compiler.ir.sparse_pattern import Sparsity

    chance, sparsity = np.random.default_rng(0), Sparsity(pattern)
    shape = (SIZE, SIZE // sparsity.group, len(sparsity.units))
    kept = np.concatenate([chance.random(shape).argsort(-1) < sparsity.keep] * len(sparsity.units[0]), axis=-1)
    return np.where(kept.reshape(SIZE, SIZE), chance.integers(0, 16, (SIZE, SIZE)), 8).astype(np.uint8)


def best(act: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Least CPU seconds of some rounds, and what the last gave."""
    times, made = [], None
    for _ in range(rounds):
        start = time.process_time()
        made = act()
        times.append(time.process_time() - start)
    return min(times), made


def measured(pattern: str, folder: Path, rounds: int) -> dict[str, Any]:
    from edgec.compiler.emit.sparse_integers import SparseIntegers
    from edgec.compiler.ir.packing import pack_rows
    from edgec.compiler.ir.sparse_pattern import Sparsity
    from edgec.compiler.packed.kernels import IN_NUMPY, kernels
    from edgec.compiler.packed.layout import Segment, shape_of
    from edgec.compiler.packed.pack_file import pack_file
    from edgec.compiler.packed.unpack_file import unpack_file

    integers = pack_rows(codes(pattern), 4, "big")
    scales = np.ones((SIZE, SIZE // BLOCK), np.float16)
    dense, packed = folder / "dense", folder / "packed"
    dense.write_bytes(integers.tobytes() + scales.tobytes())
    found: dict[str, Any] = {"": pattern}
    piece = integers.reshape(-1)[: 1 << 20]
    segment = Segment(len(piece), 4, "big", *shape_of(Sparsity(pattern)), 0, 8)
    for name, using in (("C", kernels()), ("numpy", IN_NUMPY)):
        seconds, stored = best(lambda using=using: using.pack(segment, piece, None), rounds)
        found[f"pack {name}"] = len(piece) / seconds / 1e9
        data = np.frombuffer(stored, np.uint8)
        seconds, _ = best(lambda using=using, data=data: using.restore(segment, data), rounds)
        found[f"restore {name}"] = len(piece) / seconds / 1e9
    place = ("dense", "w", 0, SIZE, SIZE, 4, "big", Sparsity(pattern))
    size = dense.stat().st_size
    seconds, _ = best(lambda: pack_file(dense, [SparseIntegers(*place, zero=8)], packed), 5)
    found["file, pack"] = size / seconds / 1e9
    seconds, _ = best(lambda: unpack_file(packed, folder / "again"), 5)
    found["file, unpack"] = size / seconds / 1e9
    small = packed.stat().st_size
    return {"": pattern, "bits": 8 * small / SIZE**2, "of dense": small / size} | found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=20)
    args = options.parse_args()
    with scratch() as folder:
        rows = [measured(pattern, folder, args.rounds) for pattern in PATTERNS]
    report("Packed weight files, int4 in blocks of 32", rows, args)


if __name__ == "__main__":
    main()
