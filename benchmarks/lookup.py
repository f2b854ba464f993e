"""Linears by table lookup beside ONNX Runtime's own kernels, in one process and in turns.

For each shape and width: microseconds of one token by lookup, tables included, and the ratio of MatMulNBits with int8
activations to it; that kernel holds 1 bit in 2 and 3 bits in 4. `hot`: one weight again and again, so that it lies in a
cache. `cold`: as many weights in turn as exceed the last cache twice, as in a model. `4` and `8`: what that many tokens
cost, over what one costs by the same kernel. `GB/s` is the weight's bytes over the cold time; beside the table stands
what the machine reads.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, report
from edgec.compiler.kernels.build import library
from edgec.passes.lookup.host_times import bound, least, lookup_model, packed_model, stored_bits

SHAPES = {  # inputs, outputs
    "Qwen2.5-0.5B q": (896, 896),
    "Qwen2.5-0.5B k": (896, 128),
    "Qwen2.5-0.5B up": (896, 4864),
    "Qwen2.5-0.5B down": (4864, 896),
    "Qwen3-4B q": (2560, 4096),
    "Qwen3-4B k": (2560, 1024),
    "Qwen3-4B o": (4096, 2560),
    "Qwen3-4B up": (2560, 9728),
    "Qwen3-4B down": (9728, 2560),
    "4096": (4096, 4096),
}
TOKENS = (1, 4, 8)


def cache_bytes() -> int:
    """Of the largest cache of the first processor; 32 MiB where nobody says."""
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    known = [int(size[:-1]) << {"K": 10, "M": 20}[size[-1]] for size in sizes if size[-1:] in ("K", "M")]
    return max(known, default=32 << 20)


def bandwidth() -> float:
    """Bytes a second that one thread reads from memory, best of several."""
    held = np.ones(8 * cache_bytes() // 8, np.int64)
    best = min(_seconds(held) for _ in range(5))
    return held.nbytes / best


def _seconds(held: np.ndarray) -> float:
    start = time.perf_counter()
    held.sum()
    return time.perf_counter() - start


def rows(shapes: dict[str, tuple[int, int]], blocks: tuple[int, ...], threads: int) -> Iterator[dict[str, Any]]:
    """The table, one row for a shape, block and width."""
    built = library()
    if built.path is None:
        raise SystemExit(f"no kernels: {built.reason}")
    cache = cache_bytes()
    for name, (inputs, outputs) in shapes.items():
        for block in blocks:
            for bits in (1, 2, 3, 4):
                if inputs % block:
                    continue
                size = outputs * inputs * bits // 8 + outputs * inputs // block * 2
                row = {"shape": name, "block": block, "bits": bits}
                for where, copies in (("hot", 1), ("cold", min(64, 2 * cache // size + 1))):
                    models = [
                        (lookup_model(outputs, inputs, bits, block, 8, copies), (str(built.path),)),
                        (packed_model(outputs, inputs, stored_bits(bits), block, copies), ()),
                    ]
                    own, other = zip(*(_times(models, inputs, count, threads) for count in TOKENS), strict=True)
                    one, theirs = own[0] / copies, other[0] / copies
                    row |= {f"{where} us": one * 1e6, f"{where} ratio": theirs / one}
                    row |= {
                        f"{where} 4": own[1] / own[0],
                        f"{where} 8": own[2] / own[0],
                        f"{where} 4 theirs": other[1] / other[0],
                    }
                row["cold GB/s"] = size / row["cold us"] / 1e3
                yield row


def _times(models: list[tuple[Any, tuple[str, ...]]], inputs: int, tokens: int, threads: int) -> list[float]:
    x = np.random.default_rng(0).standard_normal((tokens, inputs)).astype(np.float32)
    return least([bound(model, x, threads, libraries) for model, libraries in models])


def main() -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--threads", type=int, default=1, help="default 1")
    options.add_argument("--only", default="", metavar="NAME", help="shapes whose name has this in it")
    options.add_argument("--block", type=int, action="append", help="default 32 and 128")
    args = options.parse_args()
    shapes = {name: shape for name, shape in SHAPES.items() if args.only in name}
    facts = {
        "threads": args.threads,
        "read from memory, GB/s": round(bandwidth() / 1e9, 1),
        "last cache, MiB": cache_bytes() >> 20,
    }
    found = list(rows(shapes, tuple(args.block or (32, 128)), args.threads))
    report("linears by lookup", found, args, **facts)


if __name__ == "__main__":
    main()
