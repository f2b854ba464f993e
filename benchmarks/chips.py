"""Which chips take a model of Qwen3-0.6B's shape: every device of `edgec devices` that has an NPU, by format.

    check     what `edgec check` says: ok, or the code of the refusal with its first line
    seconds   of the check's process

fp16: every linear in float16. LPBQ: int4 in blocks of 32 with two-level scales, head int8 per channel, uint16
activations. Embedding on the CPU, buckets of 1, 8 and 64 tokens, context 512. `--compile PATTERN` also compiles
the rows whose name (`snapdragon_8_elite fp16`) it matches, and gives seconds, the binary's size and the compiler's
peak memory: minutes each and several GB. `--layers N` takes fewer layers, which have every shape of a linear, and
the whole head.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from common import EDGEC, ROOT, parser, report, scratch, timed, write_plan
from npu_size import COMPILER, compiled
from synthetic import QWEN3_0_6B, synthesize

PLAN = """
plan chips
device {device}
model big {{ source = hf("{model}")  context = 512 }}
calibration {{ text = "{text}"  samples = 4  length = 128 }}
pipeline p {{
  {lines}
  place  (device = cpu)  on "embed_tokens"
  bucket (tokens = [1, 8, 64], context = [512])
}}
deploy big on npu through p as qnn
"""
FORMATS = {
    "fp16": "",
    "LPBQ": "quantize (weights = int4, block = 32, scales = lpbq, activations = uint16, method = mse)"
    '  except ["embed_tokens", "lm_head"]'
    '  quantize (weights = int8, block = channel, activations = uint16)  on "lm_head"',
}


def chips() -> list[str]:
    """The devices of the table that have an NPU."""
    from edgec.compiler.plan.devices import devices

    return [name for name, device in devices().items() if device.arch]


def checked(plan: Path) -> str:
    """`ok`, or the first refusal."""
    done = subprocess.run([*EDGEC, "check", str(plan), "--json"], capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    errors = [one for one in told["diagnostics"] if one["severity"] == "error"]
    return f"{errors[0]['code']}: {errors[0]['message']}" if errors else "ok"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--compile", metavar="PATTERN", help="compile the rows whose name it matches")
    options.add_argument("--layers", type=int, help="default: all of the shape's")
    args = options.parse_args()
    layers = args.layers or QWEN3_0_6B["num_hidden_layers"]
    rows: list[dict[str, Any]] = []
    with scratch() as folder:
        synthesize(folder / "model", {**QWEN3_0_6B, "num_hidden_layers": layers}, repeat=args.compile is None)
        text = ROOT / "README.md"
        for device in chips():
            for name, lines in FORMATS.items():
                plan = write_plan(folder, PLAN.format(device=device, model=folder / "model", text=text, lines=lines))
                seconds, verdict = timed(partial(checked, plan))
                row = {"device": device, "format": name, "check": verdict, "seconds": seconds}
                if args.compile and re.search(args.compile, f"{device} {name}") and verdict == "ok":
                    bundle = folder / "bundle"
                    taken, watch = compiled(plan, bundle)
                    size = max(path.stat().st_size for path in bundle.rglob("*.bin"))
                    row |= {"compile": taken, "binary bytes": f"{size:,}", "peak MB": watch.shares[COMPILER].peak / 1e6}
                rows.append(row)
                print(row, file=sys.stderr, flush=True)
    report("Qwen3-0.6B's shape on every chip", rows, args)


if __name__ == "__main__":
    main()
