"""How texts are split before byte-level BPE, by the name a GGUF gives it (`tokenizer.ggml.pre`).

A GGUF holds the vocabulary and the merges, but of the splitting only this name. Each name stands for the components
that the tokenizer.json of that model has; a name that is not here is refused rather than guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_ENDING = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_START = r"[^\r\n\p{L}\p{N}]?"


def _words(digits: str) -> str:
    return rf"{_CONTRACTION}|{_START}\p{{L}}+|{digits}|{_ENDING}"


def _cased(contraction: str, digits: str) -> str:
    ending = _ENDING.replace(r"[\r\n]*", r"[\r\n/]*", 1)
    first = rf"{_START}{_UPPER}*{_LOWER}+{contraction}|{_START}{_UPPER}+{_LOWER}*{contraction}"
    return rf"{first}|{digits}|{ending}"


@dataclass(frozen=True)
class Splitting:
    """`patterns` in the order they split; `regex`: ByteLevel splits by GPT-2's pattern afterwards."""

    patterns: tuple[str, ...] = ()
    regex: bool = False
    nfc: bool = False  # the text is normalised first
    ignore_merges: bool = False  # a word of the vocabulary is taken whole
    bos: bool = False  # texts open with BOS unless the file says otherwise

    def pre_tokenizer(self) -> dict[str, Any]:
        """The pre-tokenizer as tokenizer.json has it."""
        split = {"type": "Split", "behavior": "Isolated", "invert": False}
        steps: list[dict[str, Any]] = [{**split, "pattern": {"Regex": pattern}} for pattern in self.patterns]
        steps.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": self.regex})
        return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


def _named(names: Iterable[str], splitting: Splitting) -> dict[str, Splitting]:
    return dict.fromkeys(names, splitting)


_HAN_AND_HANGUL = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_THREE_DIGITS = _words(r"\p{N}{1,3}")
SPLITTINGS = {
    **_named(
        ("gpt-2", "phi-2", "olmo", "jais", "trillion", "mpt", "exaone4", "granite-docling"), Splitting(regex=True)
    ),
    **_named(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
        Splitting((r"\p{N}",), regex=True),
    ),
    **_named(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        Splitting((_THREE_DIGITS,), ignore_merges=True, bos=True),
    ),
    **_named(("dbrx", "smaug-bpe"), Splitting((_THREE_DIGITS,))),
    **_named(("qwen2", "deepseek-r1-qwen"), Splitting((_words(r"\p{N}"),), nfc=True)),
    "tekken": Splitting((_cased("", r"\p{N}"),), ignore_merges=True, bos=True),
    **_named(("gpt-4o", "llama4"), Splitting((_cased(f"{_CONTRACTION}?", r"\p{N}{1,3}"),))),
    "deepseek-coder": Splitting((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_AND_HANGUL, r"\p{N}")),
    "seed-coder": Splitting((_words(r"\p{N}{1}").replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+"),)),
}
