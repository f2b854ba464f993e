"""A bundle's tokenizer and chat template in a process of their own, with limits of time and memory.

Both are programs that whoever made the bundle wrote: a template can loop, a normalizer can multiply its text, a padding
can ask for 10^10 tokens, and the library aborts its process where memory ends. The same calls as `Tokenizer`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..emit.child_process import Child, limit_memory, serve
from ..sources.tokenizer.tokenizer import Tokenizer

_SECONDS = 60.0  # for one call
_MEMORY = 4 << 30  # bytes beside what the process has at its start


class BundledTokenizer:
    """The tokenizer of a bundle: text to ids and back. `entry` is the manifest's.

    The process starts with the first call, and again with a call after `close`.
    """

    def __init__(self, folder: Path, entry: Mapping[str, Any]) -> None:
        self.bos: int | None = entry["bos"]
        self.eos = frozenset(entry["eos"])
        self._folder, self._entry = folder, dict(entry)
        self._child: Child | None = None

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt, opened as the tokenizer opens texts."""
        return self._call("encode", text=text)

    def plain(self, text: str) -> list[int]:
        """The ids of `text` alone, without special tokens before or after."""
        return self._call("plain", text=text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` without special tokens."""
        return self._call("decode", ids=list(ids))

    def chat(self, message: str) -> list[int]:
        """The ids of `message` as the user's turn, the assistant's opened, by the model's own template."""
        return self._call("chat", message=message)

    def close(self) -> None:
        """End the process; calling it twice is harmless."""
        if self._child is not None:
            self._child.close()

    def _call(self, method: str, **arguments: Any) -> Any:
        if self._child is None or not self._child.alive:
            self._child = Child(__name__, what=f"the tokenizer of `{self._folder}`", timeout=_SECONDS)
            if sys.platform == "linux":
                self._child.call("limit", more=_MEMORY)
            self._child.call("load", folder=self._folder, entry=self._entry)
        return self._child.call(method, **arguments)


def _main() -> None:
    held: list[Tokenizer] = []
    serve(
        {
            "limit": limit_memory,
            "load": lambda folder, entry: held.append(Tokenizer(folder, entry)),
            "encode": lambda text: held[0].encode(text),
            "plain": lambda text: held[0].plain(text),
            "decode": lambda ids: held[0].decode(ids),
            "chat": lambda message: held[0].chat(message),
        }
    )


if __name__ == "__main__":
    _main()
