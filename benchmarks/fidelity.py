"""Perplexity of emitted bundles against the same quantisation in the float oracle (pycode-qwen3, int4 block 32).

    ratio = perplexity(engine running the bundle) / perplexity(quantised module in ONNX Runtime, no rewrites)

MNN and ONNX Runtime run on `--windows` windows of 256 tokens, the HTP emulator (5 s a window) on `--qnn-windows`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from common import HELDOUT, QWEN3, arguments, edgec, report, scratch, text_digest, write_plan

PLAN = """
plan fidelity
device {device}
model target { source = hf("{qwen3}")  context = 512 }
pipeline p {
  quantize (weights = int4, block = 32)  except ["lm_head", "embed_tokens"]
  {bucket}
}
deploy target on {place} through p as {target}
"""
RUNS = {
    "mnn, memory = normal": ("host", "cpu", "mnn { memory = normal }", ""),
    "mnn, memory = low": ("host", "cpu", "mnn { memory = low }", ""),
    "ort": ("host", "cpu", "ort", ""),
    "qnn (HTP emulator)": ("snapdragon_8_gen_3", "npu", "qnn", "bucket (tokens = [64], context = [512])"),
}


def oracle(windows: int) -> tuple[float, float]:
    """Perplexity of the float module and of the quantised one."""
    from edgec.compiler.evaluate import module_perplexity
    from edgec.compiler.load_hf import load_hf
    from edgec.compiler.pass_base import Scope
    from edgec.passes.quantize import Quantize

    module = load_hf("target", QWEN3, 512)
    plain = module_perplexity(module, [HELDOUT], windows)
    Quantize(weights="int4", block=32).run(module, Scope(except_=("lm_head", "embed_tokens")))
    return plain, module_perplexity(module, [HELDOUT], windows)


def measure(folder: Path, name: str, windows: int) -> dict[str, object]:
    device, place, target, bucket = RUNS[name]
    text = PLAN
    for key, value in (("device", device), ("place", place), ("target", target), ("bucket", bucket)):
        text = text.replace(f"{{{key}}}", value)
    bundle = folder / "bundle"
    edgec("compile", write_plan(folder, text), "-o", bundle, "--quiet")
    done = edgec("verify", bundle, "--text", HELDOUT, "--windows", windows, "--source", f"target={QWEN3}", "--json")
    measured = json.loads(done.stdout)["perplexity"]["target"]
    shutil.rmtree(bundle)
    plain, quantised = oracle(windows)
    return {
        "bundle": name,
        "windows": windows,
        "perplexity": measured,
        "of the oracle": measured / quantised,
        "of fp32": measured / plain,
        "oracle of fp32": quantised / plain,
    }


def main() -> None:
    args = arguments(__doc__, windows=96, qnn_windows=8)
    with scratch() as folder:
        rows = [measure(folder, name, args.qnn_windows if "qnn" in name else args.windows) for name in RUNS]
    report("Emitted bundles against the float oracle, int4 block 32", rows, args, text=text_digest())


if __name__ == "__main__":
    main()
