"""A model of Qwen3-0.6B's shape (1.2 GB of random bf16 weights that do not repeat) or Qwen3-4B's (`--shape 4b`, 8 GB)
to the NPU of 8 Gen 3, whole or in `--shards`.

Three buckets, int4 block 32 linears and head, an int8 embedding beside the NPU. What the QNN compiler takes and what
everything else of the same compile takes: `seconds` (while the QNN compiler's process is there, and the rest), CPU
seconds, and the largest resident set (of the compiler; of all other processes together). `ideal` are the integers of
a file with float16 scales.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psutil
from common import EDGEC, parser, report, scratch, timed, write_plan
from processes import Watch
from synthetic import QWEN3_0_6B, QWEN3_4B, synthesize

PLAN = """
plan npu_size
device snapdragon_8_gen_3
model big {{ source = hf("{model}")  context = 512 }}
pipeline p {{
  quantize (weights = int4, block = 32)  except "embed_tokens"
  quantize (weights = int8, block = 32)  on "embed_tokens"
  place    (device = cpu)  on "embed_tokens"
  bucket   (tokens = [1, 8, 64], context = [512])
}}
deploy big on npu through p as qnn {{ shard = {shards} }}
"""
SHAPES = {"0.6b": ("Qwen3-0.6B", QWEN3_0_6B), "4b": ("Qwen3-4B", QWEN3_4B)}
COMPILER = "QNN compiler"
BINARIES = "big_ctx*.bin"


def kind_of(command: str) -> str:
    """Whose process this is."""
    return COMPILER if "targets.qnn.htp.worker" in command else "everything else"


def compiled(plan: Path, bundle: Path, jobs: int = 1) -> tuple[float, Watch]:
    """Seconds of a compile, and what its processes took."""
    command = [*EDGEC, "compile", str(plan), "-o", str(bundle), "--quiet", "--jobs", str(jobs)]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with Watch(process, kind_of) as watch:
        seconds, (_, complaint) = timed(process.communicate)
    if process.returncode:
        raise SystemExit(complaint)
    return seconds, watch


def costs(seconds: float, watch: Watch) -> list[dict[str, Any]]:
    """A row for the compiler, one for everything else, and its share of the compiler's."""
    compiler, rest = watch.shares[COMPILER], watch.shares["everything else"]
    rows = {COMPILER: (compiler.seconds, compiler.cpu, compiler.peak / 1e6)}
    rows["everything else"] = (seconds - compiler.seconds, rest.cpu, rest.peak / 1e6)
    rows["its share"] = tuple(b / a for a, b in zip(*rows.values(), strict=True))
    return [{"": k, "seconds": s, "CPU seconds": c, "peak MB": m} for k, (s, c, m) in rows.items()]


def sizes(bundle: Path) -> list[dict[str, Any]]:
    """Each file of weights beside the integers and scales it stands for."""
    weights = json.loads((bundle / "manifest.json").read_text())["models"]["big"]["weights"]
    ideal = {"ort.data": 0.0, BINARIES: 0.0}
    for row in weights:
        n, k = row["shape"]
        bits = row["bits"] + 16 / row["block"] if row["block"] else 16
        ideal["ort.data" if row["name"] == "embed_tokens" else BINARIES] += n * k * bits / 8
    found = {name: sum(path.stat().st_size for path in (bundle / "big").glob(name)) for name in ideal}
    rows = [{"": name, "MB": size / 1e6, "over ideal": size / ideal[name]} for name, size in found.items()]
    whole = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    return [*rows, {"": "bundle", "MB": whole / 1e6, "over ideal": whole / sum(ideal.values())}]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--shape", choices=SHAPES, default="0.6b", help="default 0.6b")
    options.add_argument("--layers", type=int, help="default: the shape's own")
    options.add_argument("--shards", type=int, default=1, help="binaries that the layers are cut into (default 1)")
    options.add_argument("--jobs", type=int, default=1, help="binaries compiled at the same time (default 1)")
    args = options.parse_args()
    name, shape = SHAPES[args.shape]
    layers = args.layers or shape["num_hidden_layers"]
    with scratch() as folder:
        synthesize(folder / "model", {**shape, "num_hidden_layers": layers})
        os.environ["EDGEC_CACHE"] = str(folder / "cache")
        plan = write_plan(folder, PLAN.format(model=folder / "model", shards=args.shards))
        rows = [*costs(*compiled(plan, folder / "bundle", args.jobs)), *sizes(folder / "bundle")]
    report(f"{name}'s shape to the NPU, three buckets", rows, args, layers=layers, shards=args.shards)


if __name__ == "__main__":
    main()
