"""What the benchmarks judge with is right: perplexity as the oracle's, divergence as its definition, bits as stored."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from edgec.compiler.ir.module import Module
from edgec.compiler.oracle.oracle import DecoderOracle, perplexity
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.quantize import Quantize

from .conftest import LINEARS, ROOT


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    """A module of benchmarks/ by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def load(name: str) -> ModuleType:
        return __import__(name)

    yield load
    for name in ("judge", "quality", "peers", "subjects", "real", "common"):
        sys.modules.pop(name, None)


def test_the_judge(draft: Module, benchmark) -> None:
    judge = benchmark("judge")
    ids = judge.token_ids("pycode-qwen2")
    coarse = draft.clone()
    Quantize(weights="int3", block=32).run(coarse, Scope(except_=LINEARS))
    same = judge.judge(draft, draft, ids, windows=2)
    assert (same["ratio"], same["divergence"]) == (1.0, 0.0)
    got = judge.judge(coarse, draft, ids, windows=2)
    assert got["perplexity"] == pytest.approx(perplexity(coarse, ids, 2), rel=1e-9)
    assert got["ratio"] == pytest.approx(perplexity(coarse, ids, 2) / perplexity(draft, ids, 2), rel=1e-9)
    total = 0.0
    for window in np.array(ids[:512], np.int32).reshape(2, 1, 256):
        p, q = ([np.exp(x - x.max()) for x in DecoderOracle(m).batch_logits(window)[0]] for m in (draft, coarse))
        for a, b in zip(p, q, strict=True):
            a, b = a / a.sum(), b / b.sum()
            total += float((a * np.log(a / b)).sum()) / 512
    assert got["divergence"] == pytest.approx(total, rel=1e-3)


def test_bits_are_those_stored(draft: Module, benchmark) -> None:
    quality = benchmark("quality")
    Quantize(weights="int4", block=32).run(draft, Scope(except_=LINEARS))
    assert quality.stored_bits(draft) == 4.5
    Quantize(weights="int2", block=64, symmetric=False).run(draft, Scope(except_=LINEARS))
    assert quality.stored_bits(draft) == 2 + (16 + 2) / 64


def test_every_peer_is_a_line_only_where_it_takes_the_format(benchmark) -> None:
    import tomllib

    peers = benchmark("peers")
    every = list(peers.lines(tomllib.loads((ROOT / "benchmarks" / "peers" / "peers.toml").read_text())))
    names = [line.name for line in every]
    assert len(set(names)) == len(names)
    assert "pycode-qwen3 int3 block 32 symmetric gptqmodel gptq" in names
    assert "pycode-qwen3 int3 block 32 symmetric onnxruntime rtn" not in names  # 2, 4 and 8 bits
    assert "pycode-qwen2 int4 block 32 symmetric hqq hqq" not in names  # zero points always
    assert all((ROOT / "benchmarks" / "peers" / line.script).is_file() for line in every if line.tool != "edgec")
    (line,) = (x for x in every if x.name == "pycode-qwen2 int4 block 32 asymmetric hqq hqq")
    assert line.bits == 4 + 32 / 32


def test_training_text_holds_out_the_evaluation(benchmark) -> None:
    subjects = benchmark("subjects")
    held = set((ROOT / "examples" / "text" / "heldout_modules.txt").read_text().split())
    files = subjects.training_files()
    assert len(files) > 300
    assert not [path for path in files for name in held if "/" in name and path.as_posix().endswith(f"/{name}")]
