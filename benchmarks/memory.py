"""Peak resident memory and rate of compiling a model of Qwen3's shape (random bf16 weights) to its MNN bundle in int4.

    peak MB   the largest resident set of any process of the compile (edgec itself, or an engine's child)
    of cat    MB/s of source read by the compile / MB/s of `cat model.safetensors > copy`, run just before it

`--shape 0.6b` (1.2 GB, the default) or `4b` (8 GB; twice that on the disk while it runs); `--layers N` takes fewer
layers. `--method gptq` solves the integers on 32 windows of 256 tokens. The cache is a folder of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import psutil
from common import EDGEC, parser, report, scratch, timed, write_plan
from processes import Watch
from synthetic import QWEN3_0_6B, QWEN3_4B, synthesize

SHAPES = {"0.6b": QWEN3_0_6B, "4b": QWEN3_4B}
PLAN = """
plan memory
device snapdragon_8_gen_3
model big { source = hf("{model}")  context = 2048 }
calibration { text = "{heldout}"  samples = 32  length = 256 }
pipeline p { quantize (weights = int4, block = 32, method = {method}) }
deploy big on cpu through p as mnn
"""


def copied(file: Path) -> float:
    """Seconds that `cat` takes to copy a file beside itself; the copy is removed."""
    copy = file.with_name("copy")

    def cat() -> None:
        with copy.open("wb") as target:
            subprocess.run(["cat", file], stdout=target, check=True)

    seconds, _ = timed(cat)
    copy.unlink()
    return seconds


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--shape", choices=SHAPES, default="0.6b", help="default 0.6b")
    options.add_argument("--layers", type=int, help="default: all of the shape's")
    options.add_argument("--method", default="rtn", help="of choosing integers; default rtn")
    args = options.parse_args()
    config = SHAPES[args.shape]
    layers = args.layers or config["num_hidden_layers"]
    with scratch() as folder:
        stored = synthesize(folder / "model", {**config, "num_hidden_layers": layers}, repeat=args.shape == "4b")
        cat = copied(folder / "model" / "model.safetensors")
        plan = write_plan(folder, PLAN.replace("{model}", str(folder / "model")).replace("{method}", args.method))
        os.environ["EDGEC_CACHE"] = str(folder / "cache")
        command = [*EDGEC, "compile", str(plan), "-o", str(folder / "bundle"), "--quiet", "--json"]
        process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with Watch(process, kind_of=lambda command: "worker" if "_worker" in command else "edgec") as watch:
            seconds, (out, complaint) = timed(process.communicate)
        if process.returncode:
            raise SystemExit(complaint)
        row = {
            "shape": args.shape,
            "layers": layers,
            "method": args.method,
            "source MB": stored / 1e6,
            "bundle MB": json.loads(out)["bytes"] / 1e6,
            "peak MB": max(share.peak for share in watch.shares.values()) / 1e6,
            "seconds": seconds,
            "CPU seconds": sum(share.cpu for share in watch.shares.values()),
            "cat, seconds": cat,
            "of cat": cat / seconds,
        }
    report("Quantising to an MNN bundle: memory and rate", [row], args)


if __name__ == "__main__":
    main()
