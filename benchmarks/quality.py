"""What each way of choosing integers costs, relative to float32: held-out text, 96 windows of 256 tokens.

    perplexity   as a ratio to float32; repeats to about 0.002
    divergence   KL(float32 | quantised) per position, in nats: the sharper figure
    bits         a quantised weight as stored, float16 scales and zero points included

All linears but the tied head are quantised, the embedding stays float. Calibration: 128 windows of 256 tokens of the
running interpreter's standard library, the held-out modules left out. `auto` has the budget as MNN stores what it
chooses. Each line runs in a process of its own, with a cache of its own; `peak MiB` is that process's while it solves.
`--only PATTERN` runs the lines whose name it matches.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common import apart, parser, report
from judge import WINDOWS, judge
from subjects import subject

if TYPE_CHECKING:
    from edgec.compiler.ir.module import Module

METHODS = ("rtn", "mse", "hqq", "awq", "gptq", "reconstruct")


@dataclass(frozen=True)
class Form:
    """What all methods of a table's part have in common."""

    bits: int
    block: int
    symmetric: bool
    ternary: bool = False

    @property
    def weights(self) -> str:
        """As a quantize line calls the integers."""
        return "ternary" if self.ternary else f"int{self.bits}"

    @property
    def settings(self) -> dict[str, Any]:
        """Of a quantize line."""
        return {"weights": self.weights, "block": self.block, "symmetric": self.symmetric}

    def __str__(self) -> str:
        return f"{self.weights} block {self.block} {'symmetric' if self.symmetric else 'asymmetric'}"


FORMATS = (Form(4, 128, True), Form(4, 32, True), Form(4, 32, False), Form(3, 32, True), Form(2, 32, False))
FEW = (Form(2, 32, True), Form(2, 32, True, ternary=True), Form(1, 32, True))
OTHERS = {  # rows beside the grid
    "auto at 4.5 bits gptq": {"weights": "auto", "budget": 4.5, "method": "gptq"},
}


def measure(model: str, line: dict[str, Any]) -> dict[str, float]:
    """What the judge says of one model in one format, seconds and MiB while it is solved."""
    from edgec.compiler.emit.child_process import peak_rss
    from edgec.compiler.pipeline.pass_interface import Scope
    from edgec.compiler.registry import targets
    from edgec.passes.quantize import Quantize

    judged = subject(model)
    module, given = judged.module(), judged.calibrated()
    start = time.perf_counter()
    scope = Scope(
        judged.on, ("lm_head", "embed_tokens"), given.span, given, widths=targets()["mnn"].capabilities.widths
    )
    Quantize(**line).run(module, scope)
    took = time.perf_counter() - start
    facts = {"bits": stored_bits(module), "seconds": took, "peak": peak_rss() / 2**20}
    return {**judge(module, judged.module(), judged.ids(), judged.windows), **facts}


def stored_bits(module: Module) -> float:
    """Bits a quantised weight, with its share of float16 scales and of zero points."""
    from edgec.compiler.ir.linears import linears

    bits = count = 0.0
    for quant in (linear.quant for linear in linears(module) if linear.quant is not None):
        width = quant.format.bits
        shared = width * (not quant.symmetric) + 16
        bits += math.prod(quant.q.dims) * width + math.prod(quant.scale.dims) * shared
        count += math.prod(quant.q.dims)
    return bits / count


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", help="one line in this process, as JSON")
    options.add_argument("--only", default="", metavar="PATTERN")
    args = options.parse_args()
    if args.measure:
        print(json.dumps(measure(*json.loads(args.measure))))
        return
    grid = {f"{form} {method}": {**form.settings, "method": method} for form in FORMATS + FEW for method in METHODS}
    for form in FEW:
        grid[f"{form} gptq+tune"] = {**form.settings, "method": "gptq", "tune": "scales"}
    rows = []
    for model in ("pycode-qwen3", "pycode-qwen2"):
        for name, line in (grid | OTHERS).items():
            if not re.search(args.only, f"{model} {name}"):
                continue
            got = apart(__file__, [model, line])
            form, _, method = name.rpartition(" ")
            row = {"model": model, "format": form, "method": method, "bits": got["bits"], "perplexity": got["ratio"]}
            row |= {
                "divergence": got["divergence"],
                "seconds": round(got["seconds"], 1),
                "peak MiB": round(got["peak"]),
            }
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    report("Relative to float32", rows, args, windows=WINDOWS)


if __name__ == "__main__":
    main()
