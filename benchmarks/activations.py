"""What integer activations and an 8-bit K/V cache cost (pycode-qwen3), and whether the NPU's bundle reproduces it.

    module of fp32     perplexity of the module in ONNX Runtime over that of the float model, `--windows` windows
    bundle of module   perplexity of the emitted bundle on the HTP emulator over the module's, `--qnn-windows` windows

Weights by GPTQ, all linears but the head, which is int8 per channel (a float head would run as int16). Ranges and
integers are calibrated on `--samples` windows of 256 tokens of every sixteenth module of the running interpreter's
standard library, the held-out ones left out. `--only PATTERN` runs the lines whose name it matches.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from common import HELDOUT, QWEN3, edgec, parser, report, scratch, text_digest, write_plan
from quality import training_files

FILES = training_files()[::16]  # text enough for the windows asked for
BODY, HEAD = '["lm_head", "embed_tokens"]', "lm_head"
LINES: dict[str, tuple[dict[str, Any], str]] = {  # name -> the quantize line's settings, the type of the cache
    "w4 (fp16)": ({"weights": "int4", "block": 32, "scales": "lpbq"}, "fp16"),
    "w4a16 lpbq 32": ({"weights": "int4", "block": 32, "activations": "uint16"}, "fp16"),
    "w4a16 lpbq 64": ({"weights": "int4", "block": 64, "activations": "uint16"}, "fp16"),
    "w4a16 float blocks 32": ({"weights": "int4", "block": 32, "scales": "float", "activations": "uint16"}, "fp16"),
    "w4a16 per channel": ({"weights": "int4", "block": "channel", "activations": "uint16"}, "fp16"),
    "w4a16 lpbq 32, kv8": ({"weights": "int4", "block": 32, "activations": "uint16"}, "uint8"),
    "w4a8 lpbq 32": ({"weights": "int4", "block": 32, "activations": "uint8"}, "fp16"),
    "w4a8 lpbq 32, minmax": ({"weights": "int4", "block": 32, "activations": "uint8", "ranges": "minmax"}, "fp16"),
    "w4a8 lpbq 32, kv8": ({"weights": "int4", "block": 32, "activations": "uint8"}, "uint8"),
    "w8a16": ({"weights": "int8", "block": "channel", "activations": "uint16"}, "fp16"),
    "w8a8": ({"weights": "int8", "block": "channel", "activations": "uint8"}, "fp16"),
    "w8a8, kv8": ({"weights": "int8", "block": "channel", "activations": "uint8"}, "uint8"),
}
PLAN = """
plan activations
device snapdragon_8_gen_3
model target {{ source = hf("{qwen3}")  context = 512 }}
calibration {{ text = [{text}]  samples = {samples}  length = 256 }}
pipeline p {{
  quantize (weights = int8, block = channel)  on "lm_head"
  quantize ({line})  except {body}
  bucket (tokens = [64], context = [512])
}}
deploy target on npu through p as qnn {{ kv = {kv} }}
"""


def modules(line: dict[str, Any], kv: str, samples: int, windows: tuple[int, ...]) -> list[float]:
    """Perplexity of the module in ONNX Runtime over each number of windows."""
    from edgec.compiler.diagnostics import Span
    from edgec.compiler.evaluate import module_perplexity
    from edgec.compiler.levels import Level
    from edgec.compiler.load_hf import load_hf
    from edgec.compiler.pass_base import Scope
    from edgec.compiler.plan import Calibration
    from edgec.passes.kv_cache import KvCache
    from edgec.passes.quantize import Quantize

    module, span = load_hf("target", QWEN3, 512), Span("activations", 1, 1, 1, 1)
    if line:
        text = Calibration(FILES, samples, 256, 0, span)
        Quantize(weights="int8", block="channel").run(module, Scope((HEAD,), (), span, text))
        Quantize(**line).run(module, Scope(None, (HEAD, "embed_tokens"), span, text))
        module.level = Level.COMPRESSED
        if kv != "fp16":
            KvCache(type=kv).run(module, Scope(None, (), span, text))
    return [module_perplexity(module, [HELDOUT], count) for count in windows]


def bundle(folder: Path, line: dict[str, Any], kv: str, samples: int, windows: int) -> float:
    """Perplexity of the emitted bundle on the emulator."""
    words = ", ".join(f"{key} = {value}" for key, value in line.items())
    text = ", ".join(f'"{path}"' for path in FILES)
    plan = PLAN.format(qwen3=QWEN3, text=text, samples=samples, line=words, body=BODY, kv=kv)
    edgec("compile", write_plan(folder, plan), "-o", folder / "bundle", "--quiet")
    words = ("--text", HELDOUT, "--windows", windows, "--source", f"target={QWEN3}", "--json")
    measured = json.loads(edgec("verify", folder / "bundle", *words).stdout)["perplexity"]["target"]
    shutil.rmtree(folder / "bundle")
    return measured


def main() -> None:
    options = parser(__doc__)
    for name, value in (("windows", 96), ("qnn-windows", 4), ("samples", 32)):
        options.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    options.add_argument("--method", default="gptq")
    options.add_argument("--only", default="", metavar="PATTERN")
    args = options.parse_args()
    counts = (args.windows, args.qnn_windows)
    plain = modules({}, "fp16", 0, counts)
    rows = []
    for name, (settings, kv) in LINES.items():
        if not re.search(args.only, name):
            continue
        line = {**settings, "method": args.method}
        own = modules(line, kv, args.samples, counts)
        row: dict[str, Any] = {"line": name, "module of fp32": own[0] / plain[0]}
        if "activations" in line and args.qnn_windows:
            with scratch() as folder:
                row["bundle of module"] = bundle(folder, line, kv, args.samples, args.qnn_windows) / own[1]
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    facts = {"text": text_digest(), "windows": args.windows, "on the emulator": args.qnn_windows}
    report("Integer activations, perplexity", rows, args, **facts)


if __name__ == "__main__":
    main()
