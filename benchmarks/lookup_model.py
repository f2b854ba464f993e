"""Tokens a second of SmolLM2-135M by table lookup, beside ONNX Runtime's own kernels and MNN, on this machine's CPU.

Every linear of the layers in the row's width, blocks of 32, rounded to nearest: what is timed does not depend on how
well they are rounded. Embedding and head, which share their bytes, are int8 in every bundle. `prompt` is tokens a
second over a prompt of 105, `decode` over what is written behind it, the best of several runs that take turns; `MB` is
the bundle. The last column compares the text with that of float32 throughout: `same`, or after how many tokens it
parts.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import edgec
from common import edgec as command
from common import parser, report, scratch, write_plan
from real import model_file

PLAN = """
plan rates
device host
model m {{ source = gguf("{model}")  context = 512 }}
pipeline p {{
  quantize (weights = int8, block = 32)  on ["embed_tokens", "lm_head"]
  quantize (weights = {weights}, block = 32)  except ["embed_tokens", "lm_head"]
  {lookup}
}}
deploy m on cpu through p as {target}
"""
ROWS = {
    "int2, MatMulNBits float32": ("int2", "", "ort { compute = float32 }"),
    "int2, lookup float32": ("int2", "lut_gemv (when = always, tables = float32)", "ort"),
    "int2, lookup": ("int2", "lut_gemv (when = always)", "ort { compute = int8 }"),
    "int2, MatMulNBits": ("int2", "", "ort { compute = int8 }"),
    "int4, lookup": ("int4", "lut_gemv (when = always)", "ort { compute = int8 }"),
    "int4, MatMulNBits": ("int4", "", "ort { compute = int8 }"),
    "int2, MNN low": ("int2, symmetric = false", "", "mnn { memory = low }"),  # what its 2 bits are
    "int4, MNN low": ("int4", "", "mnn { memory = low }"),
}
PROMPT = "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen. " * 4


def main() -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--tokens", type=int, default=48, help="default 48")
    options.add_argument("--runs", type=int, default=5, help="default 5")
    args = options.parse_args()
    with scratch() as folder:
        bundles = {name: _compiled(folder, number, row) for number, (name, row) in enumerate(ROWS.items())}
        opened = {name: edgec.open(bundle) for name, bundle in bundles.items()}
        found = {name: {"decode": 0.0, "prompt": 0.0} for name in ROWS}
        texts: dict[str, tuple[int, ...]] = {}
        for bundle in opened.values():
            bundle.generate(PROMPT, tokens=1)  # starts the engine
        for _ in range(args.runs):
            for name, bundle in opened.items():
                texts[name] = _run(bundle, args.tokens, found[name])
        sizes = {name: _bytes(bundle) for name, bundle in bundles.items()}
        for bundle in opened.values():
            bundle.close()
    wanted = texts["int2, MatMulNBits float32"]
    rows = [
        {"": name, **found[name], "MB": sizes[name] / 1e6, "text": _compared(name, texts[name], wanted)}
        for name in ROWS
    ]
    report("SmolLM2-135M, tokens a second", rows, args, tokens=args.tokens)


def _compiled(folder: Path, number: int, row: tuple[str, str, str]) -> Path:
    weights, lookup, target = row
    words = {"model": model_file(), "weights": weights, "lookup": lookup, "target": target}
    place = folder / str(number)
    place.mkdir()
    plan = write_plan(place, PLAN.format(**words))
    command("compile", plan, "-o", place / "bundle", "--quiet")
    return place / "bundle"


def _bytes(bundle: Path) -> int:
    return sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())


def _run(bundle: Any, tokens: int, best: dict[str, float]) -> tuple[int, ...]:
    """One run; its tokens. `best` keeps the fastest rates."""
    begun = time.perf_counter()
    bundle.generate(PROMPT, tokens=1)
    first = time.perf_counter() - begun
    begun = time.perf_counter()
    made = bundle.generate(PROMPT, tokens=tokens + 1)
    rest = time.perf_counter() - begun - first
    best["prompt"] = max(best["prompt"], made.prompt_tokens / first)
    if len(made.tokens) > tokens // 2:  # otherwise it has stopped too early to say
        best["decode"] = max(best["decode"], (len(made.tokens) - 1) / rest)
    return tuple(made.tokens)


def _compared(name: str, text: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if not name.startswith("int2"):
        return ""
    parts = next((at for at, (one, other) in enumerate(zip(text, wanted, strict=False)) if one != other), None)
    return "same" if parts is None else f"parts after {parts}"


if __name__ == "__main__":
    main()
