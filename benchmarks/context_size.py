"""Bytes of one context binary with several buckets that share weights, against each bucket alone (pycode-qwen3)."""

from __future__ import annotations

import json
from pathlib import Path

from common import arguments, edgec, report, scratch, write_plan

PLAN = """
plan sizes
device snapdragon_8_gen_3
model target { source = hf("{qwen3}")  context = 512 }
pipeline p {
  quantize (weights = int4, block = 32)  except ["lm_head", "embed_tokens"]
  bucket   (tokens = [{tokens}], context = [512])
}
deploy target on npu through p as qnn
"""


def binary_bytes(folder: Path, tokens: str) -> int:
    """Bytes of the context binary for these token counts."""
    bundle = folder / "bundle"
    edgec("compile", write_plan(folder, PLAN.replace("{tokens}", tokens)), "-o", bundle, "--quiet")
    facts = json.loads(edgec("inspect", bundle, "--json").stdout)
    return sum(size for name, size in facts["files"].items() if name.endswith(".bin"))


def main() -> None:
    args = arguments(__doc__)
    with scratch() as folder:
        alone = {tokens: binary_bytes(folder, tokens) for tokens in ("1", "4", "64")}
        rows: list[dict[str, object]] = [{"buckets": tokens, "bytes": size} for tokens, size in alone.items()]
        for tokens in ("1, 4, 64", "1, 2, 4, 8, 32, 64"):
            size = binary_bytes(folder, tokens)
            facts = {"of the largest alone": size / max(alone.values())}
            if tokens == "1, 4, 64":
                facts["of the sum"] = size / sum(alone.values())
            rows.append({"buckets": tokens, "bytes": size, **facts})
    report("Context binaries: shared weights against separate buckets", rows, args)


if __name__ == "__main__":
    main()
