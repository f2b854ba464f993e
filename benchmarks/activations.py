"""What integer activations and an 8-bit K/V cache cost a model (`--model`), and whether the NPU's bundle reproduces it.

    module of fp32     perplexity of the module in ONNX Runtime over that of the float model, `--windows` windows of
                       `heldout.txt`
    bundle of module   perplexity of the emitted bundle on the HTP emulator over the module's, `--qnn-windows` windows
                       of `modules.txt`: the first windows of the other are tables that models find easy

Weights by GPTQ unless the line says otherwise, all linears but the head, which is int8 per channel (a float head would
run as int16). Ranges and integers are calibrated on `--samples` windows of 256 tokens of every sixteenth module of the
running interpreter's standard library, the held-out ones left out. Lines that begin with `outliers` are of the variant
that examples/models/outliers.py makes. `--only PATTERN` runs the lines whose name it matches.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
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

FILES = training_files()[::16]  # text enough for the windows asked for
BODY, HEAD = '["lm_head", "embed_tokens"]', "lm_head"


@dataclass(frozen=True)
class Line:
    """The quantize line's settings, the type of the cache, and what the model is."""

    settings: dict[str, Any]
    kv: str = "fp16"
    outliers: bool = False
    rotate: bool = False


W4, W4C, W8 = ({"weights": w, "block": b} for w, b in (("int4", 32), ("int4", "channel"), ("int8", "channel")))
A16, A8 = {"activations": "uint16"}, {"activations": "uint8"}
LINES = {
    "w4 (fp16)": Line({**W4, "scales": "lpbq"}),
    "w4a16 lpbq 32": Line({**W4, **A16}),
    "w4a16 lpbq 64": Line({**W4, **A16, "block": 64}),
    "w4a16 float blocks 32": Line({**W4, **A16, "scales": "float"}),
    "w4a16 per channel": Line({**W4C, **A16}),
    "w4a16 lpbq 32, kv8": Line({**W4, **A16}, kv="uint8"),
    "w4a8 lpbq 32": Line({**W4, **A8}),
    "w4a8 lpbq 32, minmax": Line({**W4, **A8, "ranges": "minmax"}),
    "w4a8 lpbq 32, kv8": Line({**W4, **A8}, kv="uint8"),
    "w4a8 lpbq 32, rotated": Line({**W4, **A8}, rotate=True),
    "w8a16": Line({**W8, **A16}),
    "w8a8": Line({**W8, **A8}),
    "w8a8, kv8": Line({**W8, **A8}, kv="uint8"),
    "w8a8, rotated": Line({**W8, **A8}, rotate=True),
    "outliers w4a16": Line({**W4, **A16}, outliers=True),
    "outliers w4a16, rotated": Line({**W4, **A16}, outliers=True, rotate=True),
    "outliers w4a8 rtn": Line({**W4, **A8, "method": "rtn"}, outliers=True),
    "outliers w4a8": Line({**W4, **A8}, outliers=True),
    "outliers w4a8 rtn, rotated": Line({**W4, **A8, "method": "rtn"}, outliers=True, rotate=True),
    "outliers w4a8, rotated": Line({**W4, **A8}, outliers=True, rotate=True),
    "outliers w4a8 awq": Line({**W4, **A8, "method": "awq"}, outliers=True),
    "outliers w8a8": Line({**W8, **A8}, outliers=True),
    "outliers w8a8, rotated": Line({**W8, **A8}, outliers=True, rotate=True),
}
PLAN = """
plan activations
device snapdragon_8_gen_3
model target {{ source = hf("{model}")  context = 512 }}
calibration {{ text = [{text}]  samples = {samples}  length = 256 }}
pipeline p {{
  {first}
  quantize (weights = int8, block = channel)  on "lm_head"
  quantize ({line})  except {body}
  bucket (tokens = [64], context = [512])
}}
deploy target on npu through p as qnn {{ kv = {kv} }}
"""


def modules(model: Path, line: Line | None, samples: int, judged: list[tuple[Path, int]]) -> list[float]:
    """Perplexity of the module in ONNX Runtime on each text's number of windows; None: of the float model."""
    from edgec.compiler.calibration.calibration_text import Calibration
    from edgec.compiler.diagnostics.diagnostic import Span
    from edgec.compiler.ir.levels import Level
    from edgec.compiler.oracle.text_perplexity import module_perplexity
    from edgec.compiler.pipeline.pass_interface import Scope
    from edgec.compiler.sources.hf.load_hf import load_hf
    from edgec.passes.quantization.kv_cache import KvCache
    from edgec.passes.quantize import Quantize
    from edgec.passes.rotate import Rotate

    module, span = load_hf("target", model, 512), Span("activations", 1, 1, 1, 1)
    if line is not None:
        text = Calibration(FILES, samples, 256, 0, span)
        if line.rotate:
            Rotate().run(module, Scope(None, (), span, text))
        Quantize(weights="int8", block="channel").run(module, Scope((HEAD,), (), span, text))
        Quantize(**line.settings).run(module, Scope(None, (HEAD, "embed_tokens"), span, text))
        module.level = Level.COMPRESSED
        if line.kv != "fp16":
            KvCache(type=line.kv).run(module, Scope(None, (), span, text))
    return [module_perplexity(module, [text], count) for text, count in judged]


def bundle(folder: Path, model: Path, line: Line, samples: int, windows: int) -> float:
    """Perplexity of the emitted bundle on the emulator."""
    words = settings_text(line.settings)
    text, first = ", ".join(f'"{path}"' for path in FILES), "rotate ()" if line.rotate else ""
    plan = PLAN.format(model=model, text=text, samples=samples, first=first, line=words, body=BODY, kv=line.kv)
    edgec("compile", write_plan(folder, plan), "-o", folder / "bundle", "--quiet")
    words = ("--text", MODULES, "--windows", windows, "--source", f"target={model}", "--json")
    measured = json.loads(edgec("verify", folder / "bundle", *words).stdout)["perplexity"]["target"]
    shutil.rmtree(folder / "bundle")
    return measured


def main() -> None:
    options = bundle_parser(__doc__)
    options.add_argument("--method", default="gptq", help="of lines that name none; default gptq")
    args = options.parse_args()
    ordinary = MODELS / args.model
    judged = [(HELDOUT, args.windows), *([(MODULES, args.qnn_windows)] if args.qnn_windows else [])]
    rows = []
    with scratch() as folder:
        variant = folder / "outliers"
        subprocess.run([sys.executable, MODELS / "outliers.py", ordinary, variant], check=True)
        plain = {model: modules(model, None, 0, judged[:1])[0] for model in (ordinary, variant)}
        for name, line in LINES.items():
            if not re.search(args.only, name):
                continue
            model, line = variant if line.outliers else ordinary, _with_method(line, args.method)
            own = modules(model, line, args.samples, judged)
            row: dict[str, Any] = {"line": name, "module of fp32": own[0] / plain[model]}
            if "activations" in line.settings and args.qnn_windows:
                row["bundle of module"] = bundle(folder, model, line, args.samples, args.qnn_windows) / own[1]
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    facts = {"model": args.model, "text": text_digest(), "windows": args.windows, "on the emulator": args.qnn_windows}
    report("Integer activations, perplexity", rows, args, **facts)


def _with_method(line: Line, method: str) -> Line:
    return replace(line, settings={"method": method, **line.settings})


if __name__ == "__main__":
    main()
