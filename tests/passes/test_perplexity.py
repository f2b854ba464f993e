"""What quantising costs a real model: the figures of examples/models/README.md, on its held-out text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from edgec.compiler.ir.module import Module
from edgec.compiler.oracle.oracle import perplexity
from edgec.compiler.pipeline.run_steps import run_pipeline
from edgec.passes.quantize import Quantize

ROOT = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.slow
def test_reference_figures(target: Module, steps: Callable[..., list]) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(ROOT / "models" / "pycode-qwen3" / "tokenizer.json"))
    ids = tokenizer.encode((ROOT / "text" / "heldout.txt").read_text(encoding="utf-8")).ids
    base = perplexity(target, ids, windows=96)
    assert base == pytest.approx(4.867, abs=2e-3)
    for expected, options in {
        1.014: {"weights": "int4"},
        1.023: {"weights": "int4", "block": 128},
        1.010: {"weights": "int4", "symmetric": False},
        1.000: {"weights": "int8", "block": "channel"},
    }.items():
        module = target.clone()
        run_pipeline(module, steps((Quantize(**options), None, ("lm_head", "embed_tokens"))))
        assert perplexity(module, ids, windows=96) / base == pytest.approx(expected, abs=2e-3)
