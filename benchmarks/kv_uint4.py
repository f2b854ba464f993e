"""What a K/V cache of 4 bits (`kv = uint4`) costs: perplexity of the float model with one, as a ratio to it without.

    seed       of the calibration windows: what is measured of keys and values, and so each row, hangs on them
    ratio      over all judged windows of 256 tokens;  worst: of one of them

SmolLM2-135M-Instruct (real.py's GGUF and its two texts: calibrated on one, judged on the other) and both example
models. Module and bundle round alike, so that the module in ONNX Runtime is judged; `--only PATTERN` chooses models by
name.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from common import HELDOUT, QWEN2, QWEN3, parser, report, scratch
from real import model_file, texts

if TYPE_CHECKING:
    from edgec.compiler.ir.module import Module

SAMPLES, WINDOW = 64, 256


def load(name: str, gguf: Path | None) -> Module:
    """SmolLM2 or an example model, in float."""
    if name == "smollm2":
        from edgec.compiler.sources.gguf.load_gguf import load_gguf

        return load_gguf("m", gguf or model_file(), 512)
    from edgec.compiler.sources.hf.load_hf import load_hf

    return load_hf("m", QWEN2 if name == QWEN2.name else QWEN3, 512)


def losses(module: Module, text: str, windows: int) -> np.ndarray:
    """The mean loss of each window [W]."""
    from edgec.compiler.oracle.oracle import DecoderOracle
    from edgec.compiler.oracle.text_perplexity import check_windows, token_ids

    assert module.tokenizer_folder is not None
    ids = token_ids(module.tokenizer_folder, text)
    check_windows(ids, windows)
    return DecoderOracle(module).window_losses(np.array(ids[: windows * WINDOW], np.int32).reshape(windows, WINDOW))


def rounded(name: str, gguf: Path | None, text: Path, seed: int) -> Module:
    """The model with a cache of 4 bits."""
    from edgec.compiler.calibration.calibration_text import Calibration
    from edgec.compiler.diagnostics.diagnostic import Span
    from edgec.compiler.pipeline.pass_interface import Scope
    from edgec.passes.quantization.kv_uint4 import KvUint4

    module, at = load(name, gguf), Span("benchmark", 1, 1, 1, 1)
    KvUint4().run(module, Scope(calibration=Calibration((text,), SAMPLES, WINDOW, seed, at)))
    return module


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--windows", type=int, default=16, help="judged on, default 16")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default 0 1 2")
    options.add_argument("--only", default="", metavar="PATTERN")
    options.add_argument("--model", type=Path, metavar="GGUF", help="SmolLM2's file, where the wheel is not installed")
    args = options.parse_args()
    example = HELDOUT.with_name("calibration.txt").read_text(), HELDOUT.read_text()
    subjects = {"smollm2": texts()[::-1], QWEN3.name: example, QWEN2.name: example}
    rows: list[dict[str, Any]] = []
    with scratch() as folder:
        for name, (own, held_out) in subjects.items():
            if not re.search(args.only, name):
                continue
            (folder / "calibration.txt").write_text(own)
            plain = losses(load(name, args.model), held_out, args.windows)
            for seed in args.seeds:
                module = rounded(name, args.model, folder / "calibration.txt", seed)
                lost = losses(module, held_out, args.windows) - plain
                row = {"model": name, "perplexity": float(np.exp(plain.mean())), "seed": seed}
                rows.append(row | {"ratio": float(np.exp(lost.mean())), "worst": float(np.exp(lost.max()))})
                print(rows[-1], file=sys.stderr, flush=True)
    report("Float models with K and V in 4 bits, beside themselves", rows, args, windows=args.windows)


if __name__ == "__main__":
    main()
