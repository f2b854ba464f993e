"""Emitted MNN files, run on this machine in child processes: an LLM bundle, and a plain `.mnn` graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....compiler.emit.child_process import Child

LLM_WORKER = "edgec.targets.mnn.run.llm_worker"
GRAPH_WORKER = "edgec.targets.mnn.run.graph_worker"


class MnnLanguageModel:
    """An MNN-LLM bundle as a language model: logits of every token, and a K/V cache whose end can be dropped."""

    def __init__(
        self, folder: Path, vocab: int, context: int, what: str, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.vocab, self.context = vocab, context
        self.length = 0
        self._child = Child(LLM_WORKER, what=what)
        # all_logits spoils MNN's own generate(), which is never called here
        asked = {"all_logits": True, "async": False, **(settings or {})}
        self._child.call("load", config=str(folder / "config.json"), settings=asked)

    def forward(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [len(ids), V] of the next `ids`, which enter the cache."""
        if not ids:
            return np.zeros((0, self.vocab), np.float32)
        wrong = [token for token in ids if not 0 <= token < self.vocab]
        if wrong:  # the engine would read beyond its embedding
            raise ValueError(f"token {wrong[0]} is outside the vocabulary of {self.vocab}")
        if self.length + len(ids) > self.context:
            raise ValueError(f"{self.length} + {len(ids)} tokens exceed the context of {self.context}")
        logits = self._child.call("forward", ids=[int(token) for token in ids], vocab=self.vocab)
        if len(logits) != len(ids):
            raise ValueError(f"the engine gave {len(logits)} rows of logits for {len(ids)} tokens")
        self.length += len(ids)
        return logits

    def rollback(self, length: int) -> None:
        """Keep the first `length` positions of the cache."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot roll back from {self.length} tokens to {length}")
        if length == 0:
            self.reset()
        elif length < self.length:
            self._child.call("erase", keep=length)
            self.length = length

    def reset(self) -> None:
        """Empty the K/V cache."""
        self._child.call("reset")
        self.length = 0

    def encode(self, text: str) -> list[int]:
        """The ids MNN's own tokenizer makes of `text`."""
        return self._child.call("encode", texts=[text])[0]

    def close(self) -> None:
        """End the process that holds the model."""
        self._child.close()


class MnnGraph:
    """A plain `.mnn` file with named inputs and outputs."""

    def __init__(
        self, path: Path, inputs: Sequence[str], outputs: Sequence[str], memory: str, threads: int, what: str
    ) -> None:
        self._child = Child(GRAPH_WORKER, what=what, timeout=600)
        arguments = {"inputs": list(inputs), "outputs": list(outputs), "memory": memory, "threads": threads}
        self._child.call("load", path=str(path), **arguments)

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; `feeds` has every input by name. EngineError if MNN's process dies."""
        return self._child.call("run", feeds=feeds)

    def close(self) -> None:
        """End the process that holds the graph."""
        self._child.close()


def open_model(bundle: Path, model: dict[str, Any], manifest: dict[str, Any]) -> MnnLanguageModel:
    """The model of a manifest's entry; its part's file is the bundle's config.json."""
    part = next(part for part in manifest["parts"].values() if part["model"] == model["name"])
    arch = model["arch"]
    return MnnLanguageModel(
        (bundle / part["file"]).parent, arch["vocab"], arch["context"], f"MNN running `{model['name']}`"
    )


def open_graph(bundle: Path, part: dict[str, Any], bucket: str) -> MnnGraph:
    """One graph of a manifest's part."""
    graph, details = part["graphs"][bucket], part["details"]
    inputs, outputs = ([tensor["name"] for tensor in graph[key]] for key in ("inputs", "outputs"))
    what = f"MNN running `{part['model']}`"
    return MnnGraph(bundle / part["file"], inputs, outputs, details["memory"], details["threads"], what)
