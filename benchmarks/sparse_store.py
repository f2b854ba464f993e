"""HTP's sparse store on a whole model: the same plan with `sparse_store = off` and `on`, each with an empty cache.

SmolLM2-135M, or with `--model` a folder of examples/models. Masks by magnitude: what is measured is size and time, not
quality (`sparse.py` does that). Buckets of 1, 8 and 64 tokens in one binary. `bits` are of the binary's bytes,
everything in it counted, over the weights of linears and head; the embedding is looked up on the CPU. `seconds` is the
whole compile, which with the store runs every graph both ways on the emulator; `CPU` those of all its processes.
`sparse`: whether the binary has the store, which it gets only if every graph gives the same bits as its dense form.
`--devices` takes several chips, `--only` one of the forms.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import MODELS, edgec, parser, report, scratch, timed, write_plan
from real import model_file, texts

PLAN = """
plan sparse_store
device {device}
model chat {{ source = {source}  context = 512 }}
calibration {{ text = "{text}"  samples = 4  length = 128 }}
pipeline p {{
  {fuse}
  sparsify (pattern = {pattern})
  quantize (weights = {weights}, block = channel, activations = uint16)  except "embed_tokens"
  quantize (weights = int8, block = 32)  on "embed_tokens"
  bucket (tokens = [1, 8, 64], context = [512])
}}
deploy chat on npu through p as qnn {{ sparse_store = {store} }}
"""
FORMS = {"int8, 2:4": ("int8", "2:4"), "int4, pairs": ("int4", "pairs")}


def measured(folder: Path, **words: Any) -> dict[str, Any]:
    """A compile's time, and the bytes and bits of its binary."""
    plan, bundle = write_plan(folder, PLAN.format(**words)), folder / "bundle"
    os.environ["EDGEC_CACHE"] = str(folder / "cache")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, _ = timed(lambda: edgec("compile", plan, "-o", bundle, "--quiet"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    manifest = json.loads((bundle / "manifest.json").read_text())
    part = next(part for part in manifest["parts"].values() if part["target"] == "qnn")
    size = (bundle / part["file"]).stat().st_size
    rows = manifest["models"]["chat"]["weights"]
    count = sum(math.prod(row["shape"]) for row in rows if row["name"] != "embed_tokens")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    stored = part["details"].get("sparse_store", False)
    return {"MB": size / 1e6, "bits": 8 * size / count, "seconds": seconds, "CPU": cpu, "sparse": stored}


def pair(device: str, form: str, source: str, fuse: str) -> Iterator[dict[str, Any]]:
    """The rows of one form on one chip: dense, sparse, and the one over the other."""
    weights, pattern = FORMS[form]
    found = {}
    for store in ("off", "on"):
        with scratch() as folder:
            (folder / "calibration.txt").write_text(texts()[1])
            words = {"weights": weights, "pattern": pattern, "store": store, "device": device, "source": source}
            found[store] = measured(folder, text=folder / "calibration.txt", fuse=fuse, **words)
        yield {"": f"{form}, {device}, store {store}", **found[store]}
    of = {key: found["on"][key] / found["off"][key] for key in ("MB", "bits", "seconds", "CPU")}
    yield {"": f"{form}, {device}, on / off", **of, "sparse": ""}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--devices", nargs="+", default=["snapdragon_8_gen_3"], help="default snapdragon_8_gen_3")
    options.add_argument("--model", metavar="FOLDER", help="a folder of examples/models (default SmolLM2-135M)")
    options.add_argument("--only", default="", metavar="WORD", help="the forms that contain this word")
    options.add_argument("--fuse", action="store_true", help="q, k and v as one linear, and gate and up")
    args = options.parse_args()
    source = f'hf("{MODELS / args.model}")' if args.model else f'gguf("{model_file()}")'
    rows = []
    for device in args.devices:
        for form in (form for form in FORMS if args.only in form):
            for row in pair(device, form, source, "fuse ()" if args.fuse else ""):
                rows.append(row)
                print(row, file=sys.stderr, flush=True)
    report(f"HTP's sparse store, {args.model or 'SmolLM2-135M'}", rows, args)


if __name__ == "__main__":
    main()
