"""Planned memory beside what the engines really allocate in a call, in MB: activations of SmolLM2-135M `as ort`, and
its K/V cache `as mnn`, whose LLM engine takes any number of tokens and has no planned activations.

    planned     `memory` of the manifest: the arena of the bucket, without the inputs, which the caller owns
    allocated   the most bytes that the call holds at once, in blocks of 1 KiB and more (results included)
    small       of smaller blocks: the engine's own lists
    mnn         weights: what loading holds; cache: what a later call of 128 tokens leaves held, beside 128 positions of
                the plan's `kv`; rest: of the first such call, beside its logits and the cache

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
CALL = 128  # tokens of a call of MNN
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


def mnn_rows(bundle: Path, library: Path) -> list[dict[str, Any]]:
    """Bytes of weights and of 128 positions in the cache, planned and held, and what else a first call leaves."""
    command = [sys.executable, __file__, "--mnn", str(bundle), str(library)]
    done = subprocess.run(command, env={**os.environ, "LD_PRELOAD": str(library)}, stderr=subprocess.PIPE, check=True)
    loaded, first, later = map(int, done.stderr.split()[-3:])  # MNN prints on standard output
    manifest = json.loads((bundle / "manifest.json").read_text())
    (memory,), (model,) = manifest["memory"].values(), manifest["models"].values()
    cache = memory["kv"]["main"] * CALL / model["arch"]["context"]
    logits = 4 * CALL * model["arch"]["vocab"]
    sizes = {
        "weights": (memory["weights"], loaded),
        f"cache, {CALL}": (cache, later),
        "rest": (0, first - later - logits),
    }
    return [
        {"form": "mnn", "bucket": what, "planned": planned / 1e6, "allocated": held / 1e6}
        | ({"ratio": held / planned} if planned else {})
        for what, (planned, held) in sizes.items()
    ]


def measure_mnn(bundle: Path, library: Path) -> None:
    """Say what `mnn_rows` reads, in the process that is counted; it ends without MNN's own clearing up."""
    import MNN.llm

    counts = ctypes.CDLL(str(library))
    counts.held_now.restype = ctypes.c_long
    (part,) = json.loads((bundle / "manifest.json").read_text())["parts"].values()
    counts.count_from(ctypes.c_long(LEAST))
    llm = MNN.llm.create(str(bundle / part["file"]))
    llm.set_config({"all_logits": True})
    engine = llm._c_obj
    engine.load()
    held = [counts.held_now()]
    for _ in range(3):  # the first makes what is kept for calls of this size, then every call is alike
        counts.count_from(ctypes.c_long(LEAST))
        logits = engine.forward([7] * CALL)
        first = counts.held_now()
        del logits
        held.append(first if len(held) == 1 else counts.held_now())
    print(held[0], held[1], held[-1], file=sys.stderr, flush=True)
    os._exit(0)


def main() -> None:
    if sys.argv[1:2] == ["--mnn"]:
        measure_mnn(*map(Path, sys.argv[2:4]))
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
        if re.search(args.only, "mnn"):
            text = PLAN.format(
                model=args.model.absolute(), context=args.context, weights="weights = int4, block = 32", options=""
            )
            text = re.sub(r"bucket \(.*?\)", "", text).replace("as ort {  }", "as mnn")
            edgec("compile", write_plan(folder, text), "-o", folder / "mnn", "--quiet")
            found += mnn_rows(folder / "mnn", library)
    report("Activations: planned and allocated, MB", found, args)


if __name__ == "__main__":
    main()
