"""Perplexity of emitted bundles against the same quantisation in the float oracle, of one model (`--model`).

    of the oracle    perplexity(engine running the bundle) / perplexity(quantised module in ONNX Runtime, no rewrites)
    oracle of fp32   what the quantisation itself costs, on the same windows

MNN and ONNX Runtime run on `--windows` windows of 256 tokens of `heldout.txt`, the HTP emulator (5 s a window) on
`--qnn-windows` of `modules.txt`: the first windows of the other are tables that models find easy.
Calibrated lines see `--samples` windows of every sixteenth module of the running interpreter's standard library, the
held-out ones left out. `--only PATTERN` runs the lines whose name (`int4 block 32 gptq, mnn low`) it matches.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

from common import (
    HELDOUT,
    MODELS,
    MODULES,
    bundle_parser,
    edgec,
    report,
    scratch,
    settings_text,
    text_digest,
    write_plan,
)
from subjects import training_files

FILES = training_files()[::16]
KEPT = ("lm_head", "embed_tokens")
PLAN = """
plan fidelity
device {device}
model target {{ source = hf("{model}")  context = 512 }}
calibration {{ text = [{text}]  samples = {samples}  length = 256 }}
pipeline p {{
  {first}
  quantize ({line})  except ["lm_head", "embed_tokens"]
  {bucket}
}}
deploy target on {place} through p as {target}
"""
ENGINES = {
    "mnn": ("host", "cpu", "mnn { memory = normal }", ""),
    "mnn low": ("host", "cpu", "mnn { memory = low }", ""),
    "ort": ("host", "cpu", "ort", ""),
    "qnn": ("snapdragon_8_gen_3", "npu", "qnn", "bucket (tokens = [64], context = [512])"),
}
INT4, GPTQ = {"weights": "int4", "block": 32}, {"method": "gptq"}
LINES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "int4 block 32 rtn": (INT4, tuple(ENGINES)),
    "int4 block 32 mse": ({**INT4, "method": "mse"}, ("mnn", "ort", "qnn")),
    "int4 block 32 awq": ({**INT4, "method": "awq"}, ("mnn", "qnn")),
    "int4 block 32 gptq": ({**INT4, **GPTQ}, tuple(ENGINES)),
    "int4 block 32 gptq, rotated": ({**INT4, **GPTQ}, ("mnn", "qnn")),
    "int4 block 128 gptq": ({**INT4, "block": 128, **GPTQ}, ("mnn", "ort", "qnn")),
    "int4 block 32 asymmetric gptq": ({**INT4, "symmetric": False, **GPTQ}, ("mnn", "ort", "qnn")),
    "int3 block 32 gptq": ({**INT4, "weights": "int3", **GPTQ}, tuple(ENGINES)),
    "int2 block 32 asymmetric gptq": (
        {**INT4, "weights": "int2", "symmetric": False, **GPTQ},
        ("mnn", "mnn low", "ort"),
    ),
    "auto at 4.5 bits gptq": ({"weights": "auto", "budget": 4.5, **GPTQ}, ("mnn", "ort", "qnn")),
}


def judged_text(target: str) -> Path:
    """What the bundles of a target are judged on."""
    return MODULES if target == "qnn" else HELDOUT


@cache
def oracle(model: Path, name: str, windows: int, samples: int, target: str) -> tuple[float, float]:
    """Perplexity of the float module and of the quantised one, as the target gets it."""
    from edgec.compiler.calibration.calibration_text import Calibration
    from edgec.compiler.diagnostics.diagnostic import Span
    from edgec.compiler.oracle.text_perplexity import module_perplexity
    from edgec.compiler.pipeline.pass_interface import Scope
    from edgec.compiler.registry import targets
    from edgec.compiler.sources.hf.load_hf import load_hf
    from edgec.passes.quantize import Quantize
    from edgec.passes.rotate import Rotate

    module, span = load_hf("target", model, 512), Span("fidelity", 1, 1, 1, 1)
    text = Calibration(FILES, samples, 256, 0, span)
    plain = module_perplexity(module, [judged_text(target)], windows)
    if "rotated" in name:
        Rotate().run(module, Scope(None, (), span, text))
    Quantize(**LINES[name][0]).run(module, Scope(None, KEPT, span, text, widths=targets()[target].capabilities.widths))
    return plain, module_perplexity(module, [judged_text(target)], windows)


def measure(folder: Path, model: Path, name: str, engine: str, windows: int, samples: int) -> dict[str, object]:
    """Compile, run on the text, compare."""
    device, place, target, bucket = ENGINES[engine]
    text, first = ", ".join(f'"{path}"' for path in FILES), "rotate ()" if "rotated" in name else ""
    plan = PLAN.format(
        device=device, model=model, text=text, samples=samples, first=first, line=settings_text(LINES[name][0]),
        bucket=bucket, place=place, target=target,
    )  # fmt: skip
    bundle = folder / "bundle"
    edgec("compile", write_plan(folder, plan), "-o", bundle, "--quiet")
    kind = target.split()[0]
    words = ["--text", judged_text(kind), "--windows", windows, "--source", f"target={model}", "--json"]
    done = edgec("verify", bundle, *words)
    measured = json.loads(done.stdout)["perplexity"]["target"]
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    shutil.rmtree(bundle)
    plain, quantised = oracle(model, name, windows, samples, kind)
    ratios = {"of the oracle": measured / quantised, "oracle of fp32": quantised / plain}
    return {"line": name, "engine": engine, "windows": windows, **ratios, "bundle bytes": f"{size:,}"}


def main() -> None:
    args = bundle_parser(__doc__).parse_args()
    rows = []
    with scratch() as folder:
        for name, (_, engines) in LINES.items():
            for engine in engines:
                if re.search(args.only, f"{name}, {engine}"):
                    windows = args.qnn_windows if engine == "qnn" else args.windows
                    rows.append(measure(folder, MODELS / args.model, name, engine, windows, args.samples))
                    print(rows[-1], file=sys.stderr, flush=True)
    report("Emitted bundles against the float oracle", rows, args, model=args.model, text=text_digest())


if __name__ == "__main__":
    main()
