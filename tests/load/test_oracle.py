"""The oracle reproduces the figures that the two trained models come with, and sees what a rewrite did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.weights import from_array
from edgec.compiler.oracle.oracle import DecoderOracle, perplexity, run
from edgec.compiler.sources.hf.load_hf import load_hf
from tokenizers import Tokenizer

EXAMPLES = Path(__file__).parents[2] / "examples"
FIGURES = {"pycode-qwen3": 4.867, "pycode-qwen2": 5.886}  # 96 windows of the held-out text


def load(name: str) -> tuple[Module, list[int]]:
    """The model and the ids of the text it was not trained on."""
    folder = EXAMPLES / "models" / name
    text = (EXAMPLES / "text" / "heldout.txt").read_text(encoding="utf-8")
    return load_hf(name, folder, 512), Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_perplexity_of_the_trained_models(name: str) -> None:
    module, ids = load(name)
    assert perplexity(module, ids, windows=96) == pytest.approx(FIGURES[name], abs=5e-4)


def test_perplexity_is_the_mean_over_whole_windows() -> None:
    """Against the definition written out: log-softmax, each window on its own, the rest of the text unused."""
    module, ids = load("pycode-qwen2")
    oracle = DecoderOracle(module)
    losses = []
    for at in (0, 16, 32):
        logits = oracle.forward(ids[at : at + 16]).astype(np.float64)
        oracle.reset()
        log_softmax = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        losses.append(-np.mean([log_softmax[i, ids[at + i + 1]] for i in range(15)]))
    expected = np.exp(np.mean(losses))
    assert perplexity(module, ids[:63], windows=8, window=16) == pytest.approx(expected, rel=1e-6)
    assert perplexity(module, ids, windows=3, window=16) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="15 tokens do not fill one window of 16"):
        perplexity(module, ids[:15], window=16)


def test_chunks_and_rollback_equal_one_pass() -> None:
    module, ids = load("pycode-qwen3")
    oracle = DecoderOracle(module)
    whole = oracle.forward(ids[:48])
    oracle.rollback(5)
    again = np.concatenate([oracle.forward(ids[5:6]), oracle.forward(ids[6:48])])
    np.testing.assert_allclose(again, whole[5:], rtol=0, atol=1e-4)
    assert oracle.length == 48
    with pytest.raises(ValueError, match="exceed the context of 512"):
        oracle.forward([0] * 465)
    with pytest.raises(ValueError, match="cannot roll back"):
        oracle.rollback(49)


def test_a_rewritten_graph_is_opened_again() -> None:
    module, ids = load("pycode-qwen2")
    before = DecoderOracle(module).forward(ids[:8])
    np.testing.assert_array_equal(DecoderOracle(module).forward(ids[:8]), before)
    gain = module.main.graph.initializers["norm.weight"]
    gain.const_value = from_array("norm.weight", 2 * gain.const_value.numpy())
    np.testing.assert_allclose(DecoderOracle(module).forward(ids[:8]), 2 * before, rtol=1e-5, atol=1e-5)


def test_run_gives_every_output_by_name() -> None:
    module, _ = load("pycode-qwen2")
    empty = np.zeros((1, 2, 0, 32), np.float32)
    past = {f"past_{part}_{layer}_in": empty for part in ("key", "value") for layer in (0, 1)}
    feeds = {
        "input_ids": np.array([[1, 2]], np.int32),
        "position_ids": np.array([[0, 1]], np.int32),
        "attention_mask": np.array([[[[0, -1000], [0, 0]]]], np.float32),
    }
    out = run(module.main, {**feeds, **past})
    assert {name: value.shape for name, value in out.items()} == {
        "logits": (1, 2, 2048),
        **{f"past_{part}_{layer}_out": (1, 2, 2, 32) for layer in (0, 1) for part in ("key", "value")},
    }
