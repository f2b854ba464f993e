"""Planned activations beside what the engine really allocates in a call, in MB: SmolLM2-135M `as ort`.

    planned     `memory` of the manifest: the arena of the bucket, without the inputs, which the caller owns
    allocated   the most bytes that the call holds at once, in blocks of 1 KiB and more (results included)
    small       of smaller blocks: the engine's own lists

Allocations are counted by a library of 60 lines in front of malloc (`allocations.c`, glibc, needs a C compiler). The
engine is opened as the runner opens it. `--model FILE`: the GGUF file; `--only PATTERN` takes some of the forms.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import edgec, parser, report, scratch, write_plan

SOURCE = Path(__file__).with_name("allocations.c")
LEAST = 1024  # bytes of a block that counts as a value
PLAN = """
plan allocated
device host
model chat {{ source = gguf("{model}")  context = {context} }}
calibration {{ text = "{{heldout}}"  samples = 8  length = 128 }}
pipeline p {{ quantize ({weights})  bucket (tokens = [1, 16, 128], context = [{context}]) }}
deploy chat on cpu through p as ort {{ {options} }}
"""
FORMS = {
    "int4 block 32": ("weights = int4, block = 32", ""),
    "int4 block 32, compute = int8": ("weights = int4, block = 32", "compute = int8"),
    "int4 block 32, kv = uint4": ("weights = int4, block = 32", "kv = uint4"),
    "int8": ("weights = int8, block = channel", ""),
    "int8, compute = int8": ("weights = int8, block = channel", "compute = int8"),
    "int4 block 32, format = dequantize": ("weights = int4, block = 32", "format = dequantize"),
}


def counter(folder: Path) -> Path:
    """The library that counts, built in `folder`."""
    from edgec.compiler.kernels.c_compiler import called, compiler

    words = compiler()
    if words is None:
        raise SystemExit("a C compiler is needed: `apt install gcc`")
    made = folder / "allocations.so"
    called([*words, "-O2", "-shared", "-fPIC", "-o", str(made), str(SOURCE)])
    return made


def counted(bundle: Path, library: Path) -> dict[str, dict[str, float]]:
    """Part and bucket -> bytes of a call; in a process of its own, where `library` counts."""
    command = [sys.executable, __file__, "--measure", str(bundle), str(library)]
    done = subprocess.run(command, env={**os.environ, "LD_PRELOAD": str(library)}, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def measure(bundle: Path, library: Path) -> dict[str, dict[str, float]]:
    """What `counted` gives, in the process that is counted."""
    import numpy as np
    from edgec.compiler.ir.onnx_runtime import session
    from edgec.compiler.runtime.kv_cache import numpy_dtype

    counts = ctypes.CDLL(str(library))
    counts.most_held.restype = counts.held_now.restype = ctypes.c_long
    found = {}
    for name, part in json.loads((bundle / "manifest.json").read_text())["parts"].items():
        for bucket, graph in part["graphs"].items():
            opened = session(str(bundle / graph["file"]), optimise=part["details"]["optimisation"] == "all")
            feeds = {one["name"]: np.zeros(one["shape"], numpy_dtype(one["dtype"])) for one in graph["inputs"]}
            row = {"inputs": sum(array.nbytes for key, array in feeds.items() if not key.startswith("past_"))}
            opened.run(None, feeds)  # threads get their stacks and buffers
            for what, least in (("allocated", LEAST), ("all", 0)):
                counts.count_from(ctypes.c_long(least))
                made = opened.run(None, feeds)
                row[what] = counts.most_held()
                del made
            found[f"{name} {bucket}"] = row
            del opened
    return found


def rows(bundle: Path, library: Path, form: str) -> list[dict[str, Any]]:
    """A row of the table for each bucket."""
    counts = counted(bundle, library)
    arenas = next(iter(json.loads((bundle / "manifest.json").read_text())["memory"].values()))["arenas"]
    made = []
    for part, buckets in arenas.items():
        for bucket, size in buckets.items():
            count = counts[f"{part} {bucket}"]
            planned, allocated = size - count["inputs"], count["allocated"]
            made.append(
                {
                    "form": form,
                    "bucket": bucket,
                    "planned": planned / 1e6,
                    "allocated": allocated / 1e6,
                    "ratio": allocated / planned,
                    "small": (count["all"] - allocated) / 1e6,
                }
            )
    return made


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*map(Path, sys.argv[2:4]))))
        return
    options = parser(__doc__)
    options.add_argument("--model", type=Path, required=True, help="the GGUF file")
    options.add_argument("--only", default="", metavar="PATTERN")
    options.add_argument("--context", type=int, default=1024, help="default 1024")
    args = options.parse_args()
    found = []
    with scratch() as folder:
        library = counter(folder)
        for index, (form, (weights, words)) in enumerate(FORMS.items()):
            if not re.search(args.only, form):
                continue
            text = PLAN.format(model=args.model.absolute(), context=args.context, weights=weights, options=words)
            bundle = folder / str(index)
            edgec("compile", write_plan(folder, text), "-o", bundle, "--quiet")
            found += rows(bundle, library, form)
    report("Activations: planned and allocated, MB", found, args)


if __name__ == "__main__":
    main()
