"""HTP's sparse store on SmolLM2-135M whole: the same plan with `sparse_store = off` and `on`, each with an empty cache.

Masks by magnitude: what is measured is size and time, not quality (`sparse.py` does that). Buckets of 1, 8 and 64
tokens in one binary. `bits` are of the binary's bytes, everything in it counted, over the weights of linears and head;
the embedding is looked up on the CPU. `seconds` is the whole compile, which with the store runs every graph both ways
on the emulator.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from common import edgec, parser, report, scratch, timed, write_plan
from real import model_file, texts

PLAN = """
plan sparse_store
device {device}
model chat {{ source = gguf("{model}")  context = 512 }}
calibration {{ text = "{text}"  samples = 4  length = 128 }}
pipeline p {{
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
    seconds, _ = timed(lambda: edgec("compile", plan, "-o", bundle, "--quiet"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    part = next(part for part in manifest["parts"].values() if part["target"] == "qnn")
    size = (bundle / part["file"]).stat().st_size
    rows = manifest["models"]["chat"]["weights"]
    count = sum(math.prod(row["shape"]) for row in rows if row["name"] != "embed_tokens")
    stored = part["details"].get("sparse_store", False)
    return {"MB": size / 1e6, "bits": 8 * size / count, "seconds": seconds, "sparse": stored}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--device", default="snapdragon_8_gen_3", help="default snapdragon_8_gen_3")
    args = options.parse_args()
    rows = []
    for name, (weights, pattern) in FORMS.items():
        found = {}
        for store in ("off", "on"):
            with scratch() as folder:
                (folder / "calibration.txt").write_text(texts()[1])
                words = {"weights": weights, "pattern": pattern, "store": store, "device": args.device}
                found[store] = measured(folder, model=model_file(), text=folder / "calibration.txt", **words)
            rows.append({"": f"{name}, store {store}", **found[store]})
        of = {key: found["on"][key] / found["off"][key] for key in ("MB", "bits", "seconds")}
        rows.append({"": f"{name}, on / off", **of, "sparse": ""})
    report("HTP's sparse store, SmolLM2-135M", rows, args, device=args.device)


if __name__ == "__main__":
    main()
