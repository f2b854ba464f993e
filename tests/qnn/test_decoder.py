"""pycode-qwen3 on the emulator: numbers, sizes, Genie. What is emitted is what runs."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import EngineError
from edgec.compiler.oracle import oracle
from edgec.compiler.runtime.chain import ChainModel
from edgec.compiler.runtime.engines import open_graph
from edgec.targets.qnn.genie import config as genie
from edgec.targets.qnn.twins import twin
from tokenizers import Tokenizer

from .conftest import CONTEXT, MODELS, emit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODELS / "pycode-qwen3" / "tokenizer.json"))


@pytest.fixture(scope="module")
def chain(emitted):
    model = ChainModel(emitted.manifest, "target", open_graph)
    yield model
    model.close()


@pytest.fixture(scope="module")
def ids(tokenizer) -> list[int]:
    source = Path(sysconfig.get_paths()["stdlib"]) / "textwrap.py"
    return tokenizer.encode(source.read_text(encoding="utf-8")).ids


def nll(logits: np.ndarray, ids: list[int]) -> float:
    z = logits[:-1].astype(np.float64)
    z -= z.max(-1, keepdims=True)
    return float((np.log(np.exp(z).sum(-1)) - z[np.arange(len(z)), ids[1:]]).mean())


def test_perplexity_is_that_of_the_float_oracle(emitted, chain, ids):
    window = ids[:CONTEXT]
    chain.reset()
    got = np.concatenate([chain.forward(window[i : i + 64]) for i in range(0, CONTEXT, 64)])
    expected = oracle.DecoderOracle(emitted.compressed).forward(window)
    assert np.abs(got - expected).max() < 0.01 * np.abs(expected).max()
    assert abs(np.exp(nll(got, window) - nll(expected, window)) - 1) < 0.005


def test_buckets_agree_after_a_rollback(chain, ids):
    chain.reset()
    whole = chain.forward(ids[:9])
    chain.rollback(5)
    again = chain.forward(ids[5:9])
    assert np.abs(again - whole[5:9]).max() < 0.01 * np.abs(whole).max()


def test_the_shared_binary_is_little_more_than_its_largest_bucket(emitted, chip):
    key = emitted.emission.parts["target.npu0"]["details"]["twins"]
    largest = max(twin(key, graph, chip).with_suffix(".bin").stat().st_size for graph in emitted.module.graphs)
    assert (emitted.folder / "target_ctx.bin").stat().st_size <= 1.15 * largest


def test_emitting_twice_gives_the_same_bytes(emitted, stage, tmp_path):
    again = emit(stage, tmp_path)
    assert again.emission.parts == emitted.emission.parts
    for path in emitted.folder.iterdir():
        assert (again.folder / path.name).read_bytes() == path.read_bytes(), path.name


def test_genie_generates_our_tokens(emitted, chain, tokenizer, chip):
    count = 12
    prompt = tokenizer.encode("def read_config(path):\n").ids
    arch = emitted.module.arch
    chain.reset()
    ours = [int(chain.forward([arch.bos, *prompt])[-1].argmax())]
    while len(ours) < count:
        ours.append(int(chain.forward(ours[-1:])[-1].argmax()))
    key = emitted.emission.parts["target.npu0"]["details"]["twins"]
    binaries = [str(twin(key, f"t{tokens}_c{CONTEXT}", chip).with_suffix(".bin")) for tokens in (64, 1)]
    vocabulary = str(MODELS / "pycode-qwen3" / "tokenizer.json")
    assert genie.generate(genie.config(arch, CONTEXT, vocabulary, binaries), prompt, count) == ours


def test_the_bundle_tells_genie_where_its_files_are(emitted):
    import json

    dialog = json.loads((emitted.folder / "genie_config.json").read_text())["dialog"]
    assert dialog["engine"]["model"]["binary"]["ctx-bins"] == ["target_ctx.bin"]
    assert dialog["context"]["size"] == CONTEXT


def test_a_twin_that_is_gone_is_said(chip, golden_error, monkeypatch):
    monkeypatch.setenv("EDGEC_CACHE", "/nowhere/edgec")
    with pytest.raises(EngineError) as caught:
        twin("0" * 64, "t4_c512", chip)
    golden_error("E0613", caught.value)
