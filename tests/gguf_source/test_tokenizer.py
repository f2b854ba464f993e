"""The tokenizer inside a GGUF: ids and text against tokenizers made another way, chat template, BOS, refusals."""

from __future__ import annotations

import inspect
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.files import cache
from edgec.compiler.sources.gguf.gguf_file import GgufFile, read_gguf
from edgec.compiler.sources.gguf.pre_tokenizers import SPLITTINGS
from edgec.compiler.sources.gguf.text_files import text_files
from edgec.compiler.sources.gguf.tokenizer_json import check_tokenizer
from edgec.compiler.sources.tokenizer.tokenizer import Tokenizer
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from .make_gguf import write_gguf

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "models" / "pycode-qwen3"
TEXT = (ROOT / "examples" / "text" / "heldout.txt").read_text(encoding="utf-8")[:20_000]
PROBES = [
    TEXT,
    "",
    " ",
    "  two\tblanks \n\n\n",
    "I'LL 12345 don't",
    "naïve Ünïcode ﬁ é 日本語 🙂",
    "a<|im_end|>b <s>c</s>",
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))


def engine(file: GgufFile) -> Engine:
    return Engine.from_file(str(text_files(file) / "tokenizer.json"))


def file_of(metadata: dict[str, Any]) -> GgufFile:
    """A file of which only the tokenizer matters; digests come from the metadata."""
    file = GgufFile(Path("m.gguf"), {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}, {}, 0)
    file.__dict__["digest"] = f"{hash(json.dumps(metadata)):x}"
    return file


def test_byte_level_bpe_is_the_tokenizer_it_came_from(tmp_path):
    made = engine(read_gguf(write_gguf(MODEL, tmp_path / "m.gguf")))
    original = Engine.from_file(str(MODEL / "tokenizer.json"))
    for probe in PROBES:
        ids = original.encode(probe).ids
        assert made.encode(probe).ids == ids
        assert made.decode(ids) == original.decode(ids)
    assert made.to_str().count('"special":true') == original.to_str().count('"special":true') > 0


def test_chat_template_and_special_tokens(tmp_path):
    template = "{% for m in messages %}{{ bos_token + m['content'] + eos_token }}{% endfor %}"
    path = write_gguf(MODEL, tmp_path / "m.gguf", metadata={"tokenizer.chat_template": template})
    folder = text_files(read_gguf(path))
    made = Tokenizer(folder, {"bos": 0, "eos": [2]})
    assert made.chat("x") == [0, *made.plain("x"), 2]
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"]) == ("<|endoftext|>", "<|im_end|>")
    assert json.loads((folder / "generation_config.json").read_text()) == {"bos_token_id": 0, "eos_token_id": 2}


def byte_level(pre: str) -> dict[str, Any]:
    """A byte-level BPE of the code's text."""
    trained = Engine(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([TEXT, "12 2024 1999 12345 I'LL don't \r\n\r\n"] * 2, trainer)
    document = json.loads(trained.to_str())["model"]
    tokens = sorted(document["vocab"], key=document["vocab"].__getitem__)
    merges = [" ".join(merge) for merge in document["merges"]]
    return {"model": "gpt2", "pre": pre, "tokens": tokens, "merges": merges, "token_type": [1] * len(tokens)}


def test_digits_stand_alone_in_smollm():
    made = engine(file_of(byte_level("smollm")))
    other = Engine.from_str(made.to_str())
    digits = pre_tokenizers.Digits(individual_digits=True)
    other.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    for probe in [*PROBES, "x12345 Ⅻ ½ ४२"]:
        assert made.encode(probe).ids == other.encode(probe).ids


def test_qwen2_is_as_transformers_builds_it():
    transformers = pytest.importorskip("transformers")
    metadata = byte_level("qwen2")
    vocab = {token: index for index, token in enumerate(metadata["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["merges"]]
    theirs = transformers.Qwen2Tokenizer(vocab=vocab, merges=merges)
    made = engine(file_of(metadata))
    for probe in [*PROBES, "e\N{COMBINING ACUTE ACCENT}"]:
        assert made.encode(probe).ids == theirs.encode(probe, add_special_tokens=False)


def test_patterns_are_those_of_transformers_converters():
    converters = pytest.importorskip("transformers.convert_slow_tokenizer")
    pattern = inspect.signature(converters.TikTokenConverter).parameters["pattern"].default
    assert SPLITTINGS["llama-bpe"].patterns == (pattern,)


def test_patterns_of_mistral_nemo_and_gpt_4o():
    """Written out, as the tokenizer.json of the two has them."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    start, end = r"[^\r\n\p{L}\p{N}]?", r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tekken = f"{start}{upper}*{lower}+|{start}{upper}+{lower}*|" + r"\p{N}|" + end
    assert SPLITTINGS["tekken"].patterns == (tekken,)
    short = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    gpt = f"{start}{upper}*{lower}+{short}|{start}{upper}+{lower}*{short}|" + r"\p{N}{1,3}|" + end
    assert SPLITTINGS["gpt-4o"].patterns == (gpt,)


def test_deepseek_coder_splits_step_by_step():
    """Built from the parts that the tokenizer.json of DeepSeek-Coder has."""
    made = engine(file_of(byte_level("deepseek-coder")))
    other = Engine.from_str(made.to_str())
    splits = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"]
    parts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in splits]
    parts += [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    other.pre_tokenizer = pre_tokenizers.Sequence(parts)
    for probe in [*PROBES, "x12345 한국어\r\n(a, b) 中文字 += 1"]:
        assert made.encode(probe).ids == other.encode(probe).ids


def test_seed_coder_leaves_line_ends_to_themselves():
    made = engine(file_of(byte_level("seed-coder")))
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}"
    pattern += r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
    assert SPLITTINGS["seed-coder"].patterns == (pattern,)
    assert made.decode(made.encode(TEXT).ids) == TEXT


def test_llama3_takes_words_of_the_vocabulary_whole_and_opens_with_bos():
    metadata = byte_level("llama-bpe")
    tokens = [*metadata["tokens"], "whole", "<s>"]
    types = [*metadata["token_type"], 1, 3]
    made = engine(file_of({**metadata, "tokens": tokens, "token_type": types, "bos_token_id": len(tokens) - 1}))
    assert made.encode("whole").ids == [len(tokens) - 1, len(tokens) - 2]
    off = {**metadata, "tokens": tokens, "token_type": types, "bos_token_id": len(tokens) - 1, "add_bos_token": False}
    assert engine(file_of(off)).encode("whole").ids == [len(tokens) - 2]


def pieces() -> dict[str, Any]:
    """A SentencePiece vocabulary learned from the code's text: specials, bytes, characters, then merges by rank."""
    learned = Engine(models.BPE())
    learned.normalizer = normalizers.Replace(" ", "▁")
    learned.pre_tokenizer = pre_tokenizers.Split(Regex("▁+[^▁]*"), "isolated")
    learned.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=500, show_progress=False))
    vocab = learned.get_vocab()
    words = [word for word in sorted(vocab, key=vocab.__getitem__) if "\n" not in word]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words, "<tool>"]
    kinds = [2, 3, 3, *([6] * 256), *([1] * len(words)), 4]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(words))] + [0.0]
    ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    return {"model": "llama", "tokens": tokens, "scores": scores, "token_type": kinds, **ids}


def sentencepiece(text: str, metadata: dict[str, Any]) -> list[int]:
    """SentencePiece's own algorithm: of all neighbours that make a piece, join those of the best score, leftmost."""
    ids = {token: index for index, token in enumerate(metadata["tokens"])}
    symbols = list(text.replace(" ", "▁"))
    while True:
        joined = [(a + b, at) for at, (a, b) in enumerate(pairwise(symbols)) if a + b in ids]
        if not joined:
            break
        word, at = max(joined, key=lambda row: (metadata["scores"][ids[row[0]]], -row[1]))
        symbols[at : at + 2] = [word]
    found = []
    for symbol in symbols:
        found += [ids[symbol]] if symbol in ids else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return found


def test_sentencepiece_joins_by_score_and_falls_back_to_bytes():
    metadata = pieces()
    made = engine(file_of(metadata))
    for probe in ["def read(self, x):", "  two", TEXT[:3000], "日本 🙂\tx\r\n", "naïve"]:
        assert made.encode(probe).ids == [1, *sentencepiece(" " + probe, metadata)]
        assert made.decode(made.encode(probe).ids) == probe
    assert made.encode("").ids == [1]
    tool = metadata["tokens"].index("<tool>")
    assert tool in made.encode("a<tool>b").ids


def test_sentencepiece_without_a_leading_space():
    metadata = {**pieces(), "add_space_prefix": False, "add_bos_token": False}
    made = engine(file_of(metadata))
    assert made.encode("def f").ids == sentencepiece("def f", metadata)
    assert made.decode(made.encode(" def f").ids) == " def f"


def test_unused_tokens_are_left_out():
    metadata = pieces()
    padded = [*metadata["tokens"], "[PAD1]", "[PAD2]"]
    metadata |= {"tokens": padded, "token_type": [*metadata["token_type"], 5, 5], "scores": [*metadata["scores"], 0, 0]}
    assert engine(file_of(metadata)).get_vocab_size() == len(padded) - 2


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"model": "t5"}, "of the kind `t5`"),
    "splitting": ({"pre": "klingon"}, "how `klingon`"),
    "no splitting": ({"pre": None}, "how `default`"),
    "types": ({"token_type": [1, 1]}, "2 token types"),
    "vocabulary": ({"tokens": ["a"] * 900, "token_type": [1] * 900}, "900 tokens, the model has 800 embeddings"),
    "eos": ({"eos_token_id": 900}, "`tokenizer.ggml.eos_token_id` is 900"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_converted_is_said(name):
    change, said = WRONG[name]
    metadata = {key: value for key, value in (byte_level("smollm") | change).items() if value is not None}
    with pytest.raises(PlanError) as caught:
        check_tokenizer(file_of(metadata), 800)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E0348"
    assert said in diagnostic.message
    assert "m.gguf" in diagnostic.message
    assert diagnostic.help


def test_a_merge_of_unknown_tokens_leaves_nothing_in_the_cache():
    metadata = byte_level("smollm")
    with pytest.raises(PlanError, match="its merge"):
        text_files(file_of({**metadata, "merges": [*metadata["merges"], "never seen"]}))
    assert [path for path in (cache.cache_root() / "gguf-text").rglob("*") if path.is_file()] == []


def test_decoder_kinds_are_known_to_mnn():
    """What is written here has the parts that MNN's tokenizer takes."""
    document = json.loads((text_files(file_of(pieces())) / "tokenizer.json").read_text())
    assert [part["type"] for part in document["decoder"]["decoders"]] == ["Replace", "ByteFallback", "Fuse", "Strip"]
    assert isinstance(Engine.from_str(json.dumps(document)).decoder, decoders.Decoder)
