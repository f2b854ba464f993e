"""Perplexity of modules on the plan's `evaluation` text, in ONNX Runtime.

The text's files are joined by newlines and tokenised once; perplexity is over its first windows of 256 tokens. The
float model's figure is kept in the cache: it depends on the model's files and the text alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..diagnostics.diagnostic import Span, fail
from ..files import cache
from ..files.plain_file import read_plain

if TYPE_CHECKING:
    from ..ir.module import Module

WINDOW = 256
_CHARACTERS = 8  # of a token, at most, in any text that has many; one with longer ones is read whole


def read_text(paths: Sequence[Path]) -> str:
    """The files' text, joined by newlines; not UTF-8 is an error naming the file and the byte."""
    parts = []
    for path in paths:
        try:
            parts.append(read_plain(path).decode("utf-8"))
        except UnicodeDecodeError as error:
            fail("E0951", f"`{path}` is not UTF-8 text (byte {error.start})")
        except OSError as error:
            fail("E0951", f"`{path}` cannot be read: {error.strerror}")
    return "\n".join(parts)


def token_ids(tokenizer: Path, text: str) -> list[int]:
    """`text` as the ids of the tokenizer in the folder `tokenizer`, without special tokens."""
    from ..sources.tokenizer.tokenizer_file import open_tokenizer

    return open_tokenizer(tokenizer / "tokenizer.json").encode(text, add_special_tokens=False).ids


def check_windows(ids: Sequence[int], windows: int, origin: Span | None = None) -> None:
    """A text that does not fill the windows asked for is an error that says how many it fills."""
    filled = len(ids) // WINDOW
    if filled < windows:
        plural = "" if filled == 1 else "s"
        message = f"the evaluation text fills {filled} window{plural} of {WINDOW} tokens, {windows} are asked for"
        fail("E0952", message, at=origin, help=f"set `windows` to at most {filled}" if filled else "give a longer text")


def check_text(paths: Sequence[Path], tokenizer: Path, windows: int) -> None:
    """Every error of a text that is to be judged on; of a long one only as much is tokenised as fills the windows."""
    text = read_text(paths)
    start = text[: windows * WINDOW * _CHARACTERS]
    if len(start) == len(text) or len(token_ids(tokenizer, start)) // WINDOW < windows:
        check_windows(token_ids(tokenizer, text), windows)


def module_perplexity(
    module: Module,
    text: Sequence[Path],
    windows: int,
    model_files: Sequence[Path] = (),
    origin: Span | None = None,
) -> float:
    """Perplexity of a decoder module on the joined `text`.

    `model_files` are for a float model the files it was read from: its perplexity depends on them and the text alone,
    and is kept in the cache.
    """
    if module.tokenizer_folder is None:
        raise ValueError(f"module `{module.name}` has no tokenizer")
    tokenizer, content = module.tokenizer_folder, read_text(text)

    def measure() -> float:
        from .oracle import perplexity

        ids = token_ids(tokenizer, content)
        check_windows(ids, windows, origin)
        return perplexity(module, ids, windows=windows, window=WINDOW)

    if not model_files:
        return measure()
    digests = [cache.digest_file(path) for path in model_files]
    key = hashlib.sha256(json.dumps([digests, content, windows, WINDOW]).encode()).hexdigest()

    def build(scratch: Path) -> None:
        (scratch / "value.json").write_text(json.dumps(measure()))

    folder = cache.make("perplexity", key, build)
    return json.loads((folder / "value.json").read_text())
