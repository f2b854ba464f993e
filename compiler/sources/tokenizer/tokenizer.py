"""Text to ids and back, as a bundle's tokenizer folder and its manifest entry say.

Prompts are raw text. What opens one: the tokenizer's own post-processor unless its config says `add_bos_token: false`,
and `bos` where the config says `add_bos_token: true`. `chat` renders the model's template (Jinja, sandboxed).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from ...diagnostics.diagnostic import fail
from .tokenizer_file import read_tokenizer

_OF_PYTHON = (TypeError, ValueError, AttributeError, RecursionError, MemoryError)  # a template raises what it calls


class Tokenizer:
    """`folder` holds tokenizer.json and, if there are any, tokenizer_config.json and chat_template.jinja."""

    def __init__(self, folder: Path, entry: Mapping[str, Any]) -> None:
        self._folder = folder
        self._engine = _engine(folder / "tokenizer.json")
        self._config = _json(folder / "tokenizer_config.json")
        self.bos: int | None = entry["bos"]
        self.eos = frozenset(entry["eos"])

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt, opened as the tokenizer opens texts."""
        asked = self._config.get("add_bos_token")
        ids = self._engine.encode(text, add_special_tokens=asked is not False).ids
        if asked is True and self.bos is not None and ids[:1] != [self.bos]:
            ids = [self.bos, *ids]
        return ids

    def plain(self, text: str) -> list[int]:
        """The ids of `text` alone, without special tokens before or after."""
        return self._engine.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` without special tokens."""
        return self._engine.decode(list(ids), skip_special_tokens=True)

    def chat(self, message: str) -> list[int]:
        """The ids of `message` as the user's turn, the assistant's opened, by the model's own template."""
        text = self._render([{"role": "user", "content": message}])
        return self.plain(text)  # the template writes the special tokens itself

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        source = self._template()
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        environment.filters["tojson"] = _to_json
        special = {key: self._special(key) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
        try:
            return environment.from_string(source).render(messages=messages, add_generation_prompt=True, **special)
        except (TemplateError, ArithmeticError, LookupError, *_OF_PYTHON) as error:
            said = str(error)[:200] or type(error).__name__
            fail("E0921", f"the chat template of `{self._folder}` failed: {said}", help="run with a raw prompt")

    def _template(self) -> str:
        own = self._folder / "chat_template.jinja"
        if own.is_file():
            return own.read_text(encoding="utf-8")
        found = self._config.get("chat_template")
        if isinstance(found, list):  # several, by name
            found = next((row["template"] for row in found if row.get("name") == "default"), None)
        if not found:
            message = f"the tokenizer `{self._folder}` has no chat template"
            fail("E0920", message, help="run without `--chat`: the prompt is then taken as it stands")
        return found

    def _special(self, key: str) -> str:
        value = self._config.get(key)
        return (value.get("content") if isinstance(value, dict) else value) or ""


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


def _engine(path: Path) -> Any:
    from tokenizers import Tokenizer as Engine

    try:
        return Engine.from_file(str(path))
    except Exception as error:  # the library knows no finer class
        read_tokenizer(path)  # says what is wrong with the file as such
        fail("E0309", f"`{path}` is not a tokenizer.json that `tokenizers` reads: {error}")


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    """Not Jinja's own, which escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
