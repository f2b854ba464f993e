"""Text to ids and back, as a folder's tokenizer.json says.

Prompts are raw text, opened by the tokenizer's own post-processor and nothing else: as in transformers 5, an
`add_bos_token` beside a tokenizer.json has no say. `chat` renders the model's template (`chat_template`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ...diagnostics.diagnostic import fail
from .text_config import read_text_config
from .tokenizer_file import open_tokenizer


class Tokenizer:
    """`folder` holds tokenizer.json and, if there are any, tokenizer_config.json and chat_template.jinja."""

    def __init__(self, folder: Path, entry: Mapping[str, Any]) -> None:
        self._folder = folder
        self._engine = open_tokenizer(folder / "tokenizer.json")
        self.bos: int | None = entry["bos"]
        self.eos = frozenset(entry["eos"])

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt, opened as the tokenizer opens texts."""
        return self._engine.encode(text, add_special_tokens=True).ids

    def plain(self, text: str) -> list[int]:
        """The ids of `text` alone, without special tokens before or after."""
        return self._engine.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` without special tokens."""
        return self._engine.decode(list(ids), skip_special_tokens=True)

    def chat(self, message: str) -> list[int]:
        """The ids of `message` as the user's turn, the assistant's opened, by the model's own template."""
        return self.plain(self.render(message))  # the template writes the special tokens itself

    def render(self, message: str) -> str:
        """The prompt of one user's turn."""
        from .chat_template import FAILURES, render

        config = read_text_config(self._folder)
        if config.template is None:
            message = f"the tokenizer `{self._folder}` has no chat template"
            fail("E0920", message, help="run without `--chat`: the prompt is then taken as it stands")
        try:
            return render(config.template, [{"role": "user", "content": message}], config.special)
        except FAILURES as error:
            said = str(error)[:200] or type(error).__name__
            fail("E0921", f"the chat template of `{self._folder}` failed: {said}", help="run with a raw prompt")


class _Decodes(Protocol):
    def decode(self, ids: Iterable[int]) -> str: ...


class TextStream:
    """Text as tokens arrive: nothing is given out before the characters of a token are complete."""

    def __init__(self, tokenizer: _Decodes) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = 0  # characters

    def push(self, ids: Iterable[int]) -> str:
        """The text that `ids` complete; bytes of an unfinished character wait."""
        self._ids += ids
        text = self._tokenizer.decode(self._ids)
        ready = len(text) if not text.endswith("\N{REPLACEMENT CHARACTER}") else self._given
        new, self._given = text[self._given : ready], max(self._given, ready)
        return new

    def rest(self) -> str:
        """The rest of the text: bytes that did not form a whole character until now."""
        return self._tokenizer.decode(self._ids)[self._given :]
