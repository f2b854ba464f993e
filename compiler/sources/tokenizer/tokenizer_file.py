"""Whether a tokenizer.json can be read, and whether two mean the same by the same ids: what speculation stands on.

The rule: every id that both tokenizers define is the same token in both. Ids that only one defines (padding, later
special tokens) are no disagreement: no text of the other holds them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...diagnostics.diagnostic import fail


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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
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
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        help = "save the tokenizer again with transformers, or copy the model's folder again"
        fail("E0309", f"`{path}` is not a tokenizer.json that can be read", help=help)
    return tokens
