"""The tokenizer inside a GGUF as the document of a tokenizer.json.

    `tokenizer.ggml.model`    becomes
    gpt2                      byte-level BPE; what is split first goes by `tokenizer.ggml.pre` (`pre_tokenizers.py`)
    llama                     SentencePiece BPE: spaces are U+2581, unknown characters fall back to bytes; its merges
                              are all pairs of pieces that make a piece, best score first (transformers does the same)

Token types: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte. Control and user-defined tokens become
added tokens, unused ones (padding of the vocabulary) are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan
from typing import Any, NoReturn

from ...diagnostics.diagnostic import fail
from .gguf_file import GgufFile
from .pre_tokenizers import SPLITTINGS, Splitting

_UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 2, 3, 4, 5, 6
_TYPES = range(1, 7)
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def check_tokenizer(file: GgufFile, vocab: int) -> None:
    """Fail if the tokenizer in `file` cannot be converted, or makes ids beyond the `vocab` embeddings."""
    kind = file.config.text("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        known = "edgec converts `gpt2` (byte-level BPE) and `llama` (SentencePiece BPE)"
        _refuse(file, f"it is of the kind `{kind}`", known)
    tokens, types = _tokens(file), _types(file)
    if len(types) != len(tokens):
        _refuse(file, f"it has {len(tokens)} tokens and {len(types)} token types")
    if len(tokens) > vocab:
        _refuse(file, f"it has {len(tokens)} tokens, the model has {vocab} embeddings")
    for key in ("bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id"):
        if (index := file.metadata.get(f"tokenizer.ggml.{key}", 0)) not in range(vocab):
            _refuse(file, f"`tokenizer.ggml.{key}` is {index}, there are {vocab} tokens")
    if kind == "gpt2":
        _splitting(file)
        _merges(file, _vocabulary(file))
    elif len(scores := file.config.numbers("tokenizer.ggml.scores")) != len(tokens) or any(map(isnan, scores)):
        _refuse(file, "its `tokenizer.ggml.scores` are not one number for each token")
    file.config.text("tokenizer.chat_template", "")
    adds_bos(file)


def tokenizer_json(file: GgufFile) -> dict[str, Any]:
    """The document of a tokenizer.json for a `file` that `check_tokenizer` let pass."""
    made = _byte_level(file) if file.metadata["tokenizer.ggml.model"] == "gpt2" else _sentencepiece(file)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(file),
        **made,
        "post_processor": _post_processor(file),
    }


def adds_bos(file: GgufFile) -> bool:
    """Whether texts open with BOS; where the file does not say, as llama.cpp does it for this kind."""
    plain = file.metadata.get("tokenizer.ggml.model") == "gpt2"
    default = _splitting(file).bos if plain else True
    return file.config.boolean("tokenizer.ggml.add_bos_token", default)


def token_text(file: GgufFile, key: str) -> str | None:
    """The token that `tokenizer.ggml.<key>` names by its id; None where it names none."""
    index, tokens = file.metadata.get(f"tokenizer.ggml.{key}"), _tokens(file)
    return tokens[index] if isinstance(index, int) and 0 <= index < len(tokens) else None


def _byte_level(file: GgufFile) -> dict[str, Any]:
    splitting = _splitting(file)
    vocab = _vocabulary(file)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "normalizer": {"type": "NFC"} if splitting.nfc else None,
        "pre_tokenizer": splitting.pre_tokenizer(),
        "decoder": byte_level,
        "model": _bpe(vocab, _merges(file, vocab), ignore_merges=splitting.ignore_merges),
    }


def _merges(file: GgufFile, vocab: dict[str, int]) -> list[list[str]]:
    """The pairs of tokens that byte-level BPE joins, in order; each pair and what it makes are in `vocab`."""
    found = []
    for merge in file.config.strings("tokenizer.ggml.merges"):
        first, _, second = merge.partition(" ")
        if first not in vocab or second not in vocab or first + second not in vocab:
            _refuse(file, f"its merge `{merge}` is of tokens it does not have")
        found.append([first, second])
    return found


def _sentencepiece(file: GgufFile) -> dict[str, Any]:
    types, tokens = _types(file), _tokens(file)
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    decoders: list[dict[str, Any]] = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    normalizers: list[dict[str, Any]] = [replace]
    if file.config.boolean("tokenizer.ggml.add_space_prefix", True):
        normalizers.insert(0, {"type": "Prepend", "prepend": _SPACE})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    model = _bpe(_vocabulary(file), list(_score_merges(file)), unk_token=unknown, fuse_unk=True)
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {**model, "byte_fallback": _BYTE in types},
    }


def _score_merges(file: GgufFile) -> Iterator[list[str]]:
    scores = file.metadata["tokenizer.ggml.scores"]
    rows = list(zip(_tokens(file), _types(file), scores, strict=True))
    ids = {token: index for index, (token, kind, _) in enumerate(rows) if kind not in (_CONTROL, _UNUSED)}
    found = []
    for token, kind, score in rows:
        if kind in (_UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE):
            continue
        pairs = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        own = [(ids[a], ids[b], a, b) for a, b in pairs if a in ids and b in ids]
        found += [(-score, -len(a), -len(b), a, b) for _, _, a, b in sorted(own)]
    found.sort(key=lambda row: row[:3])
    return ([a, b] for *_, a, b in found)


def _bpe(vocab: dict[str, int], merges: list[list[str]], **other: Any) -> dict[str, Any]:
    common = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {"type": "BPE", **common, **flags, **other, "vocab": vocab, "merges": merges}


def _vocabulary(file: GgufFile) -> dict[str, int]:
    rows = enumerate(zip(_tokens(file), _types(file), strict=True))
    vocab: dict[str, int] = {}
    for index, (token, kind) in rows:
        if kind != _UNUSED:
            vocab.setdefault(token, index)
    return vocab


def _added(file: GgufFile) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = (_UNKNOWN, _CONTROL)
    return [
        {"id": index, "content": token, **flags, "special": kind in special}
        for index, (token, kind) in enumerate(zip(_tokens(file), _types(file), strict=True))
        if kind in (*special, _USER) and token
    ]


def _post_processor(file: GgufFile) -> dict[str, Any] | None:
    bos = token_text(file, "bos_token_id") if adds_bos(file) else None
    adds_eos = file.config.boolean("tokenizer.ggml.add_eos_token", False)
    eos = token_text(file, "eos_token_id") if adds_eos else None
    if bos is None and eos is None:
        return None
    tokens = {
        token: file.metadata[f"tokenizer.ggml.{key}_token_id"] for key, token in (("bos", bos), ("eos", eos)) if token
    }
    special = {name: {"id": name, "ids": [index], "tokens": [name]} for name, index in tokens.items()}

    def opened(sequence: str, kind: int) -> list[dict[str, Any]]:
        text: list[dict[str, Any]] = [{"Sequence": {"id": sequence, "type_id": kind}}]
        before = [{"SpecialToken": {"id": bos, "type_id": kind}}] if bos else []
        after = [{"SpecialToken": {"id": eos, "type_id": kind}}] if eos else []
        return [*before, *text, *after]

    single = opened("A", 0)
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *opened("B", 1)],
        "special_tokens": special,
    }


def _tokens(file: GgufFile) -> list[str]:
    return file.config.strings("tokenizer.ggml.tokens")


def _types(file: GgufFile) -> list[int]:
    found = file.config.numbers("tokenizer.ggml.token_type")
    return [int(kind) if kind in _TYPES else 0 for kind in found] or [1] * len(_tokens(file))


def _splitting(file: GgufFile) -> Splitting:
    name = file.config.text("tokenizer.ggml.pre", "default")
    if name not in SPLITTINGS:
        known = ", ".join(f"`{known}`" for known in SPLITTINGS)
        help = f"the model's Hugging Face folder brings its own tokenizer; known in a GGUF: {known}"
        _refuse(file, f"edgec does not know how `{name}` (`tokenizer.ggml.pre`) splits a text", help)
    return SPLITTINGS[name]


def _refuse(file: GgufFile, why: str, help: str | None = None) -> NoReturn:
    help = help or "convert the model again with llama.cpp's converter"
    fail("E0348", f"the tokenizer in `{file.path}` cannot be converted: {why}", help=help)
