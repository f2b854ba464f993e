"""What each way of choosing integers costs in perplexity, relative to float32: held-out text, 96 windows of 256 tokens.

All linears but the tied head are quantised, the embedding stays float. Calibration: 128 windows of 256 tokens of the
running interpreter's standard library, the held-out modules left out. Each line runs in a process of its own, with a
cache of its own; `peak MiB` is that process's while it solves. `--only PATTERN` runs the lines whose name it matches.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from common import HELDOUT, MODELS, parser, report, scratch

LINES = [  # weights, block, symmetric, methods
    ("int4", 128, True, ("rtn", "mse", "hqq", "awq", "gptq", "reconstruct")),
    ("int4", 32, True, ("rtn", "mse", "hqq", "awq", "gptq", "reconstruct")),
    ("int4", 32, False, ("rtn", "mse", "hqq", "awq", "gptq", "reconstruct")),
    ("int3", 32, True, ("rtn", "mse", "hqq", "awq", "gptq", "reconstruct")),
    ("int2", 32, False, ("rtn", "mse", "hqq", "awq", "gptq", "reconstruct")),
]
WINDOWS = 96


def training_files() -> tuple[Path, ...]:
    """The standard library's modules that are not held out, tests left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    held = set((HELDOUT.parent / "heldout_modules.txt").read_text().split())
    return tuple(path for path in sorted(root.rglob("*.py")) if _is_training(path, path.relative_to(root), held))


def _is_training(path: Path, module: Path, held: set[str]) -> bool:
    if module.as_posix() in held or {"site-packages", "test", "tests"} & set(module.parts):
        return False
    try:
        return bool(path.read_bytes().decode("utf-8").strip())
    except UnicodeDecodeError:
        return False


def measure(model: str, line: dict[str, Any] | None) -> dict[str, float]:
    """Perplexity of one model in one format (None: float), seconds and MiB while it is solved."""
    from edgec.compiler.diagnostics import Span
    from edgec.compiler.evaluate import token_ids
    from edgec.compiler.load_hf import load_hf
    from edgec.compiler.oracle import perplexity
    from edgec.compiler.pass_base import Scope
    from edgec.compiler.plan import Calibration
    from edgec.passes.quantize import Quantize

    module = load_hf("m", MODELS / model, 512)
    start = time.perf_counter()
    if line is not None:
        span = Span("quality", 1, 1, 1, 1)
        scope = Scope(None, ("lm_head", "embed_tokens"), span, Calibration(training_files(), 128, 256, 0, span))
        Quantize(**line).run(module, scope)
    took = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ids = token_ids(MODELS / model, HELDOUT.read_text())
    return {"perplexity": perplexity(module, ids, WINDOWS), "seconds": took, "peak": peak}


def apart(model: str, line: dict[str, Any] | None) -> dict[str, float]:
    """`measure` in a process and with a cache of its own."""
    with scratch() as folder:
        env = {**os.environ, "EDGEC_CACHE": str(folder)}
        command = [sys.executable, __file__, "--measure", json.dumps([model, line])]
        made = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
    return json.loads(made.stdout)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", help="one line in this process, as JSON")
    options.add_argument("--only", default="", metavar="PATTERN")
    args = options.parse_args()
    if args.measure:
        print(json.dumps(measure(*json.loads(args.measure))))
        return
    rows = []
    for model in ("pycode-qwen3", "pycode-qwen2"):
        base = None
        for weights, block, symmetric, methods in LINES:
            for method in methods:
                form = f"{weights} block {block} {'symmetric' if symmetric else 'asymmetric'}"
                if not re.search(args.only, f"{model} {form} {method}"):
                    continue
                base = base or apart(model, None)["perplexity"]
                line = {"weights": weights, "block": block, "symmetric": symmetric, "method": method}
                got = apart(model, line)
                row = {"model": model, "format": form, "method": method, "ratio": got["perplexity"] / base}
                rows.append({**row, "seconds": round(got["seconds"], 1), "peak MiB": round(got["peak"])})
                print(rows[-1], file=sys.stderr, flush=True)
    report("Perplexity relative to float32", rows, args, windows=WINDOWS)


if __name__ == "__main__":
    main()
