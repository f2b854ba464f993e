"""A sample of `fuzz_gguf.py`, and that it sees what it is for."""

from __future__ import annotations

import pytest
from edgec.compiler.sources.gguf import tokenizer_json

from .fuzz_gguf import campaign, small_model


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("tokenizer", ["gpt2", "llama"])
def test_damaged_files_are_read_or_refused(tmp_path, tokenizer):
    found = campaign(small_model(tmp_path / "right", tokenizer), tmp_path, 280, seed=0)
    assert found["read"] > 20  # damage that does not matter: the campaign reaches beyond the header
    assert {"E0336", "E0341", "E0342", "E0348"} <= found.keys()


def test_the_campaign_finds_an_exception(tmp_path, monkeypatch):
    def broken(*_words: object) -> None:
        raise TypeError("a list was expected")

    name = tokenizer_json.check_tokenizer.__name__
    monkeypatch.setattr(tokenizer_json, name, broken)
    with pytest.raises(AssertionError, match="TypeError: a list was expected"):
        campaign(small_model(tmp_path / "right", "gpt2"), tmp_path, 20, seed=0)
