"""What a stored bit buys on the NPU: perplexity of the formats that HTP takes around and below four bits a weight.

    bits         a weight of the linears, scales and zero points as a context binary holds them (QNN's tables left out)
    perplexity   of the module, activations rounded where the format needs it, as a ratio to float32
    divergence   KL(float32 | quantised) per position, in nats

All linears but the head, each format solved by gptq, by gptq with scales learned end to end (`tuned`) and, named by
`--only`, by reconstruct; sparse ones pruned by sparsegpt with swaps, recovery by block and permutation first
(`--recover layer`: by linear, a tenth of the time on a real model); `spread`: behind `rotate (channels = outliers,
values = false)`. HTP takes no 3-bit weights, and 2-bit ones beside float activations only. Texts, windows, `--model`
and `--samples` are those of benchmarks/sparse.py.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import QWEN3, apart, parser, report, scratch
from judge import judge
from sparse import BEST, OUT, globs, load, texts

if TYPE_CHECKING:
    from edgec.compiler.ir.module import Module

INTEGERS = {"activations": "uint16"}
FORMATS: dict[str, tuple[str | None, dict[str, Any]]] = {  # pattern, settings of the quantize line
    "int4 LPBQ block 16": (None, {"weights": "int4", "block": 16, "scales": "lpbq", **INTEGERS}),
    "int4 LPBQ block 32": (None, {"weights": "int4", "block": 32, "scales": "lpbq", **INTEGERS}),
    "int4 LPBQ block 32 spread": (None, {"weights": "int4", "block": 32, "scales": "lpbq", **INTEGERS}),
    "int4 LPBQ block 64": (None, {"weights": "int4", "block": 64, "scales": "lpbq", **INTEGERS}),
    "int4 per channel": (None, {"weights": "int4", "block": "channel", **INTEGERS}),
    "int8 per channel 2:4": ("2:4", {"weights": "int8", "block": "channel", **INTEGERS}),
    "int4 per channel pairs": ("pairs", {"weights": "int4", "block": "channel", **INTEGERS}),
    "int2 block 16": (None, {"weights": "int2", "block": 16, "symmetric": False}),
    "int2 block 32": (None, {"weights": "int2", "block": 32, "symmetric": False}),
    "int2 block 64": (None, {"weights": "int2", "block": 64, "symmetric": False}),
}
SOLVERS: dict[str, dict[str, Any]] = {
    "gptq": {"method": "gptq"},
    "gptq tuned": {"method": "gptq", "tune": "scales"},
    "reconstruct": {"method": "reconstruct"},
}


def stored_bits(module: Module, integers: bool) -> float:
    """Bits a weight of the quantised linears as a context binary holds them."""
    from edgec.compiler.ir.linears import linears
    from edgec.targets.qnn.sparse_store import packs
    from edgec.targets.qnn.stored_weights import stored_weight

    bits = count = 0
    for linear in linears(module):
        if linear.quant is None:
            continue
        bits += 8 * stored_weight(linear, integers, packs(linear)).bytes
        count += math.prod(linear.shape)
    return bits / count


def measure(
    model: str, name: str, solver: str, windows: int, samples: int, recover: str, layers: int
) -> dict[str, Any]:
    """One row."""
    from edgec.compiler.pipeline.pass_interface import Scope
    from edgec.compiler.plan.parameters import Pattern
    from edgec.passes.quantize import Quantize
    from edgec.passes.rotate import Rotate
    from edgec.passes.sparsify import Sparsify

    pattern, settings = FORMATS[name]
    with scratch() as folder:
        given, ids = texts(model, folder, samples)
        module, start, on = load(model), time.perf_counter(), globs("all", layers)
        if name.endswith(" spread"):
            Rotate(channels="outliers", values=False).run(module, Scope(None, (), given.span, given))
        if pattern is not None:
            n_of_m = pattern if pattern == "pairs" else Pattern(*map(int, pattern.split(":")))
            Sparsify(pattern=n_of_m, **{**BEST, "recover": recover}).run(module, Scope(on, OUT, given.span, given))
        Quantize(**settings, **SOLVERS[solver]).run(module, Scope(on, OUT, given.span, given))
        seconds = time.perf_counter() - start
        return {
            "bits": stored_bits(module, "activations" in settings),
            "seconds": seconds,
            **judge(module, load(model), ids, windows),
        }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", help="one row in this process, as JSON")
    options.add_argument("--only", default=" gptq", metavar="PATTERN", help="default ` gptq`")
    options.add_argument("--model", default=QWEN3.name, help=f"default {QWEN3.name}")
    options.add_argument("--windows", type=int, default=96)
    options.add_argument("--samples", type=int, default=128)
    options.add_argument("--layers", type=int, default=0, help="the first so many layers alone (default 0: all)")
    options.add_argument("--recover", default=BEST["recover"], choices=("none", "layer", "blocks"))
    args = options.parse_args()
    if args.measure:
        print(json.dumps(measure(*json.loads(args.measure))))
        return
    rows = []
    for name in FORMATS:
        for solver in SOLVERS:
            if not re.search(args.only, f"{name} {solver}"):
                continue
            got = apart(__file__, [args.model, name, solver, args.windows, args.samples, args.recover, args.layers])
            row = {"format": name, "solver": solver, "bits": got["bits"], "perplexity": got["ratio"]}
            rows.append(row | {"divergence": got["divergence"], "seconds": round(got["seconds"])})
            print(rows[-1], file=sys.stderr, flush=True)
    rows.sort(key=lambda row: row["bits"])
    report(f"{Path(args.model).name}: what a stored bit buys on HTP", rows, args, windows=args.windows)


if __name__ == "__main__":
    main()
