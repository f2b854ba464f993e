"""Components of a tokenizer.json that MNN's format has in another form, written as that.

    Digits(individual)            Split on one number, isolated (MNN's own Digits knows ASCII alone)
    Digits                        Split on a run of numbers, isolated
    Split(string)                 Split on that string as a regular expression
    Split(…, Contiguous)          Split on runs of the pattern, isolated
    Metaspace(split)              Metaspace, then a split before each mark: MNN's own does not split

MNN puts the mark of a Metaspace before every stretch of text between added tokens, as `prepend_scheme = always` asks.
With `first` only the start of a text has one, so there text right behind an added token is read with a blank before it:
`reads_blanks_behind_tokens`. All else is compared with `tokenizers` when the file is written (`agreement`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

_Item = Mapping[str, Any]
MARK = "\N{LOWER ONE EIGHTH BLOCK}"


def with_equivalents(spec: _Item) -> dict[str, Any]:
    """`spec` with every such component replaced; what has no equivalent stays, for the writer to refuse."""
    return {**spec, "pre_tokenizer": _pre_tokenizer(spec.get("pre_tokenizer"))}


def reads_blanks_behind_tokens(spec: _Item) -> bool:
    """Whether text behind an added token gets a mark from MNN that `tokenizers` does not give it."""
    return any(one["type"] == "Metaspace" and _scheme(one) == "first" for one in _flat(spec.get("pre_tokenizer")))


def _flat(item: _Item | None) -> Iterator[_Item]:
    if item is not None and item.get("type") == "Sequence":
        for one in item["pretokenizers"]:
            yield from _flat(one)
    elif item is not None:
        yield item


def _scheme(item: _Item) -> str:
    return item.get("prepend_scheme", "always" if item.get("add_prefix_space", True) else "never")


def prepends(item: _Item) -> bool:
    """Whether a Metaspace, of a pre-tokenizer or a decoder, has a mark before the text."""
    return _scheme(item) != "never"


def _pre_tokenizer(item: _Item | None) -> dict[str, Any] | None:
    kind = None if item is None else item.get("type")
    if item is None:
        return None
    if kind == "Sequence":
        return {**item, "pretokenizers": [_pre_tokenizer(one) for one in item["pretokenizers"]]}
    if kind == "Digits":
        return _split(r"\p{N}" if item.get("individual_digits") else r"\p{N}+")
    if kind == "Split":
        pattern = item["pattern"].get("Regex", re.escape(item["pattern"].get("String", "")))
        if item.get("behavior") == "Contiguous":
            return _split(f"(?:{pattern})+", invert=bool(item.get("invert")))
        return {**item, "pattern": {"Regex": pattern}}
    if kind == "Metaspace" and item.get("split", True):
        mark = re.escape(item.get("replacement", MARK))
        plain = {**item, "split": False}
        return {"type": "Sequence", "pretokenizers": [plain, _split(f"{mark}[^{mark}]*")]}
    return dict(item)


def _split(pattern: str, invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": invert}


def covers_all_bytes(spec: _Item) -> bool:
    """Whether every text becomes known characters: bytes are spelled in an alphabet that the vocabulary holds whole."""
    return _spells_bytes(spec.get("pre_tokenizer")) and set(byte_alphabet().values()) <= set(spec["model"]["vocab"])


def _spells_bytes(item: _Item | None) -> bool:
    if item is None:
        return False
    if item.get("type") == "Sequence":
        return any(map(_spells_bytes, item["pretokenizers"]))
    return item.get("type") == "ByteLevel"


@functools.cache
def byte_alphabet() -> dict[int, str]:
    """GPT-2's: byte -> the printable character that stands for it."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(256 + hidden.index(byte)) if byte not in visible else chr(byte) for byte in range(256)}
