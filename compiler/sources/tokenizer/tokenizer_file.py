"""Whether a tokenizer.json can be read, and whether two mean the same by the same ids: what speculation stands on.

The rule: every id that both tokenizers define is the same token in both. Ids that only one defines (padding, later
special tokens) are no disagreement: no text of the other holds them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...diagnostics.diagnostic import fail
from ...files.plain_file import read_plain
from ..hf.config_file import pointer_hint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_AGAIN = "save the tokenizer again with transformers, or copy the model's folder again"


def disagreement(one: Path, other: Path) -> str | None:
    """The first id the two tokenizer.json files disagree on, in words; None when they agree."""
    first, second = _read(one), _read(other)
    if first == second:
        return None
    a, b = _tokens(first, one), _tokens(second, other)
    common = sorted(a.keys() & b.keys())
    if not common:
        return "they have no token id in common"
    wrong = [token for token in common if a[token] != b[token]]
    if not wrong:
        return None
    id_ = wrong[0]
    text = f"id {id_} is {json.dumps(a[id_])} in one and {json.dumps(b[id_])} in the other"
    return f"{text}, and {len(wrong) - 1} more ids differ" if len(wrong) > 1 else text


def read_tokenizer(path: Path) -> dict[str, Any]:
    """The document of a tokenizer.json that has a vocabulary; anything else is an error."""
    raw = _read(path)
    _tokens(raw, path)
    return json.loads(raw)


def opens_with(folder: Path, token: int | None) -> bool:
    """Whether the tokenizer in `folder` puts this token (BOS) in front of a text."""
    if token is None or not (folder / "tokenizer.json").is_file():
        return False
    return open_tokenizer(folder / "tokenizer.json").encode("", add_special_tokens=True).ids[:1] == [token]


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json as `transformers` uses it: neither cutting texts nor padding them.

    Trainers leave `truncation` and `padding` in the file; a prompt, a calibration or an evaluation text is whole.
    """
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_file(str(path))
    except Exception as error:  # the library knows no finer class
        read_tokenizer(path)  # says what is wrong with the file as such
        fail("E0309", f"`{path}` is not a tokenizer.json that `tokenizers` reads: {error}", help=_AGAIN)
    found.no_truncation()
    found.no_padding()
    return found


def _read(path: Path) -> bytes:
    try:
        return read_plain(path)
    except FileNotFoundError:
        help = "speculation, MNN and every prompt need the tokenizer.json of the model"
        fail("E0309", f"there is no tokenizer `{path}`", help=help)
    except OSError as error:
        fail("E0309", f"the tokenizer `{path}` cannot be read: {(error.strerror or 'unknown reason').lower()}")


def _tokens(raw: bytes, path: Path) -> dict[int, str]:
    """Id -> token of a tokenizer.json, added tokens over those of the model."""
    try:
        table = json.loads(raw)
        vocab: Any = table["model"]["vocab"]
        entries = vocab.items() if isinstance(vocab, dict) else ((row[0], i) for i, row in enumerate(vocab))
        tokens = {int(id_): str(token) for token, id_ in entries}
        for added in table.get("added_tokens") or ():
            tokens[int(added["id"])] = str(added["content"])
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError):
        help = pointer_hint(raw[:64]) or _AGAIN
        fail("E0309", f"`{path}` is not a tokenizer.json that can be read", help=help)
    return tokens
