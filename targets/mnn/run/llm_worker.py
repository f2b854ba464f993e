"""The child process that runs one MNN-LLM bundle."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....compiler.diagnostics.diagnostic import EngineError, fail
from ....compiler.emit.child_process import serve

_state: dict[str, Any] = {}


def load(config: str, settings: dict[str, Any]) -> None:
    """Load the bundle whose `config.json` is at `config`, with `settings` on top."""
    # not `from MNN import llm`: that is the bare extension module, which hides the package of the same name
    model = importlib.import_module("MNN.llm").create(config)
    engine = model._c_obj  # the wrapper's own load() drops the answer
    model.set_config(settings)
    if not engine.load():
        fail("E0702", f"MNN's LLM engine refused to load `{config}`", kind=EngineError)
    model.generate_init()
    _state.update(model=model, engine=engine)


def forward(ids: Sequence[int], vocab: int) -> np.ndarray:
    """Logits [len(ids), vocab] of all tokens; they enter the cache."""
    logits = _state["model"].forward([int(token) for token in ids])
    made = np.array(logits.read(), np.float32).reshape(-1, vocab)
    del logits  # variables must go before the model does
    return made


def erase(keep: int) -> None:
    """Forget all but the first `keep` tokens."""
    _state["engine"].erase_history(keep, 0)


def reset() -> None:
    """Empty the K/V cache."""
    _state["model"].reset()


def length() -> int:
    """Tokens in the K/V cache."""
    return int(_state["engine"].get_current_history())


def encode(texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, by MNN's own tokenizer."""
    return [list(_state["engine"].tokenizer_encode(text)) for text in texts]


def decode(ids: Sequence[int]) -> str:
    """Token by token, as MNN streams its answers; bytes that are not UTF-8 become replacement characters."""
    return b"".join(_token_bytes(int(token)) for token in ids).decode("utf-8", "replace")


def _token_bytes(token: int) -> bytes:
    try:
        return _state["engine"].tokenizer_decode(token).encode()
    except UnicodeDecodeError as error:  # half of a character: the binding makes a str of every token
        return error.object


def settings() -> dict[str, Any]:
    """The configuration MNN runs with, its defaults filled in."""
    return json.loads(_state["engine"].dump_config())


if __name__ == "__main__":
    serve(
        {
            "load": load,
            "forward": forward,
            "erase": erase,
            "reset": reset,
            "length": length,
            "encode": encode,
            "decode": decode,
            "settings": settings,
        }
    )
