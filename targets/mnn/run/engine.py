"""Emitted MNN files, run on this machine in child processes: an LLM bundle, and a plain `.mnn` graph."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ....compiler.diagnostics.diagnostic import EngineError, fail
from ....compiler.emit.child_process import Child, usable_cores
from ....compiler.emit.graph_in_child import GraphInChild
from ....compiler.emit.shared_child import SharedChild
from ....compiler.files.scratch import PREFIX, hold, release
from .bundle_config import write_private_copy

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
            fail("E0915", f"token id {wrong[0]} is outside the vocabulary of {self.vocab} entries")
        if self.length + len(ids) > self.context:
            raise ValueError(f"{self.length} + {len(ids)} tokens exceed the context of {self.context}")
        logits = self._child.call("forward", ids=[int(token) for token in ids], vocab=self.vocab)
        if len(logits) != len(ids):
            message = f"{self._child.what} gave {len(logits)} rows of {self.vocab} logits for {len(ids)} tokens"
            fail("E0916", message, help="`edgec verify` tells which part is wrong", kind=EngineError)
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


class BundledModel(MnnLanguageModel):
    """The model of a bundle that may come from anywhere: the engine sees a private copy of its configs.

    `names`: the files of `folder` that the manifest vouches for; the copy holds links to them and nothing else.
    `most_threads`: of the engine, if that is fewer than the bundle says.
    """

    def __init__(
        self,
        folder: Path,
        names: Collection[str],
        vocab: int,
        context: int,
        what: str,
        most_threads: int | None = None,
    ) -> None:
        self._scratch = hold(f"{PREFIX}mnn-", Path(tempfile.gettempdir()))
        try:
            write_private_copy(folder, names, self._scratch.work, most_threads)
            super().__init__(self._scratch.work, vocab, context, what)
        except BaseException:
            release(self._scratch)
            raise

    def close(self) -> None:
        """End the process and remove the copy; calling it twice is harmless."""
        if self._child.alive:
            super().close()
            release(self._scratch)


class MnnGraph:
    """A plain `.mnn` file with named inputs and outputs, in a process of its own or in `shared` (`graph_process`)."""

    def __init__(
        self,
        path: Path,
        inputs: Sequence[str],
        outputs: Sequence[str],
        memory: str,
        threads: int,
        what: str,
        shared: SharedChild | None = None,
    ) -> None:
        self._what, self._ended = what, False
        self._process = shared or SharedChild(_graph_process())
        if not self._process.join():
            fail("E0990", f"{what}: the process that it shares with others has ended", kind=EngineError)
        arguments = {"inputs": list(inputs), "outputs": list(outputs), "memory": memory, "threads": threads}
        try:
            self._handle = self._process.call(what, "load", path=str(path), **arguments)
        except BaseException:
            self._process.leave()
            raise

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; `feeds` has every input by name. EngineError if MNN's process dies."""
        return self._process.call(self._what, "run", handle=self._handle, feeds=feeds)

    def close(self) -> None:
        """Forget the graph, and end the process if it is the last one in it; calling it twice is harmless."""
        if not self._ended:
            self._ended = True
            self._process.leave_after("free", handle=self._handle)


def _graph_process() -> Child:
    return Child(GRAPH_WORKER, what="MNN", timeout=600)


@contextlib.contextmanager
def graph_process() -> Iterator[SharedChild]:
    """A process for many graphs, one after the other: to start one takes longer than a small graph."""
    shared = SharedChild(_graph_process())
    shared.join()
    try:
        yield shared
    finally:
        shared.leave()


class GraphBeside(GraphInChild):
    """A graph of a bundle that may come from anywhere; all graphs of one bundle share a process."""

    def __init__(self, path: Path, bundle: Path, what: str, opens: str = "load", **words: Any) -> None:
        key = (str(bundle), opens)
        super().__init__(GRAPH_WORKER, key, path.parent, what, opens, path=str(path.absolute()), **words)


def open_model(bundle: Path, model: dict[str, Any], manifest: dict[str, Any]) -> MnnLanguageModel:
    """The model of a manifest's entry; its part's file is the bundle's config.json.

    A draft that works while the target runs leaves that one a core: MNN's threads spin while they wait for each other,
    and where they are more than the free cores, a call of half a millisecond takes up to half a second.
    """
    part = next(part for part in manifest["parts"].values() if part["model"] == model["name"])
    arch, file = model["arch"], PurePosixPath(part["file"])
    inside = [PurePosixPath(name) for name in manifest["files"]]
    names = [path.name for path in inside if path.parent == file.parent]
    what = f"MNN running `{model['name']}`"
    pair = manifest.get("speculation") or {}
    beside = "overlap" in pair and pair["draft"] == model["name"]
    most = max(1, usable_cores() - 1) if beside else None
    return BundledModel(bundle / file.parent, names, arch["vocab"], arch["context"], what, most)


def open_graph(bundle: Path, part: dict[str, Any], bucket: str) -> MnnGraph | GraphBeside:
    """One graph of a manifest's part; of a part beside another engine with a core left to that one."""
    graph, details = part["graphs"][bucket], part["details"]
    inputs, outputs = ([tensor["name"] for tensor in graph[key]] for key in ("inputs", "outputs"))
    what = f"MNN running `{part['model']}`"
    if "file" in graph:
        threads = max(1, min(details["threads"], usable_cores() - 1))
        words = {"inputs": inputs, "outputs": outputs, "memory": details["memory"], "threads": threads}
        return GraphBeside(bundle / graph["file"], bundle, f"{what}, bucket `{bucket}`", **words)
    return MnnGraph(bundle / part["file"], inputs, outputs, details["memory"], details["threads"], what)


def open_plain(bundle: Path, part: dict[str, Any], bucket: str) -> GraphBeside | None:
    """The graph in plain operators that a part beside another engine carries, in ONNX Runtime; None without one."""
    file = part["details"].get("plain", {}).get(bucket)
    if file is None:
        return None
    return GraphBeside(bundle / file, bundle, f"`{part['model']}`, bucket `{bucket}`, in ONNX Runtime", "open_plain")
