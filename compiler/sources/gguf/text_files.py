"""The tokenizer and chat template of a GGUF as the files a Hugging Face folder has, made once in the cache."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from ...files import cache
from .gguf_file import GgufFile
from .read_gguf_arch import token_ids
from .tokenizer_json import adds_bos, token_text, tokenizer_json

_KIND, _HELD = "gguf-text", "held"
_VERSION = 1  # of the conversion: raised whenever it gives other files


def check_text_files(file: GgufFile, vocab: int) -> None:
    """As `check_tokenizer`, which walks the whole vocabulary; a file that held is noted in the cache."""
    key = f"{file.digest}-{_VERSION}"
    if cache.read_note(_KIND, key) == _HELD:
        return
    from .tokenizer_json import check_tokenizer

    check_tokenizer(file, vocab)
    with contextlib.suppress(OSError):
        cache.write_note(_KIND, key, _HELD)


def text_files(file: GgufFile) -> Path:
    """The folder of tokenizer.json, tokenizer_config.json and generation_config.json for `file`."""

    def build(folder: Path) -> None:
        bos, eos = token_ids(file)
        ends = list(eos) if len(eos) > 1 else next(iter(eos), None)
        _write(folder / "tokenizer.json", tokenizer_json(file))
        _write(folder / "tokenizer_config.json", _config(file))
        _write(folder / "generation_config.json", {"bos_token_id": bos, "eos_token_id": ends})

    return cache.make(_KIND, f"{file.digest}-{_VERSION}", build)


def _config(file: GgufFile) -> dict[str, Any]:
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    found = {ours: token_text(file, f"{theirs}_token_id") for theirs, ours in names.items()}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": adds_bos(file)}
    config |= {name: token for name, token in found.items() if token is not None}
    if template := file.metadata.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return config


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
