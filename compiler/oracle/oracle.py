"""The oracle: a module run in ONNX Runtime on the CPU with every rewrite switched off.

    perplexity = exp(mean over windows of -log softmax(logits[i])[ids[i+1]])

What holds a part whole: ONNX Runtime keeps all of a graph's weights resident as float32 and, since nothing is folded
ahead, a transposed copy of each while it runs. A graph of 2.3 GB (Qwen3-0.6B) was measured at 4.1 GB, so the oracle is
for models that fit in memory twice; writing the graph for it streams and took 120 MB.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx_ir as ir

from ..files.scratch import scratch_folder
from ..ir import kv_names
from ..ir.module import MAIN, Module
from ..ir.onnx_runtime import onnxruntime, session
from ..ir.opset import MASKED
from ..ir.save import save_graphs
from . import in_rows

if TYPE_CHECKING:
    from ..ir.decoder_arch import DecoderArch

_BATCH = 8  # windows in one run
_LOGITS = 1 << 25  # logits in one run: with a large vocabulary fewer windows go together


def save_for_ort(model: ir.Model, directory: Path) -> Path:
    """Write `model` as ONNX with external weights, streamed block by block; returns the .onnx path."""
    return save_graphs({"model": model}, directory, "model.data")["model"]


def open_session(
    model: ir.Model, opener: Callable[[str], onnxruntime.InferenceSession] = session
) -> onnxruntime.InferenceSession:
    """A session over a temporary copy of `model`, which is gone once the weights are mapped."""
    with scratch_folder("oracle") as directory:
        return opener(str(save_for_ort(model, directory)))


def run(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of `model` for `feeds`, by name; a large model goes by rows of its weights and is never held."""
    if in_rows.is_large(model.graph) and in_rows.goes_in_rows(model.graph):
        return in_rows.run(model, feeds)
    return _run(open_session(model), feeds)


def run_each(model: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """The same for several feeds, of one session where the model can be held."""
    if in_rows.is_large(model.graph) and in_rows.goes_in_rows(model.graph):
        yield from (in_rows.run(model, one) for one in feeds)
        return
    opened = open_session(model)
    yield from (_run(opened, one) for one in feeds)


def feeds(arch: DecoderArch, ids: np.ndarray) -> dict[str, np.ndarray]:
    """What a decoder's dynamic graph reads for W independent texts, ids [W,S], with nothing cached."""
    batch, tokens = ids.shape
    empty = np.zeros((batch, arch.kv_heads, 0, arch.head_dim), np.float32)
    places = np.broadcast_to(np.arange(tokens, dtype=np.int32), (batch, tokens))
    cache = {name: empty for layer in range(arch.layers) for name in kv_names.pair(layer, kv_names.IN)}
    mask = causal_mask(tokens, 0)
    return {"input_ids": ids.astype(np.int32), "position_ids": places, "attention_mask": mask, **cache}


def _run(opened: onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [output.name for output in opened.get_outputs()]
    return {name: np.asarray(value) for name, value in zip(names, opened.run(names, dict(feeds)), strict=True)}


def causal_mask(tokens: int, past: int) -> np.ndarray:
    """[1,1,S,P+S]: position i sees the past and the new positions up to i."""
    later = np.triu(np.ones((tokens, tokens), bool), 1)
    mask = np.concatenate([np.zeros((tokens, past), bool), later], axis=1)
    return np.where(mask, np.float32(MASKED), np.float32(0))[None, None]


class DecoderOracle:
    """A decoder module (one dynamic graph, level `semantic` to `placed`) as a language model with its K/V in numpy."""

    def __init__(self, module: Module) -> None:
        if module.arch is None:
            raise ValueError(f"module `{module.name}` is no decoder")
        self.arch = module.arch
        self.vocab = module.arch.vocab
        self.context = module.context
        self.length = 0
        self._session = _cached_session(module)
        self._added = {  # K/V tensor that is read -> the one with its new positions
            kv_names.format(kind, layer, kv_names.IN): kv_names.format(kind, layer, kv_names.OUT)
            for layer in range(self.arch.layers)
            for kind in kv_names.KINDS
        }
        self._cache = self._empty(1)

    def forward(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [len(ids), V] of the next `ids`, which are appended to the cache."""
        if self.length + len(ids) > self.context:
            raise ValueError(f"{self.length} + {len(ids)} tokens exceed the context of {self.context}")
        logits, new = self._step(np.asarray([ids], np.int32), self._cache)
        self._cache = {name: np.concatenate([self._cache[name], new[name]], axis=2) for name in self._added}
        self.length += len(ids)
        return logits[0]

    def rollback(self, length: int) -> None:
        """Forget all positions from `length` on."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot roll back from {self.length} tokens to {length}")
        self._cache = {name: value[:, :, :length] for name, value in self._cache.items()}
        self.length = length

    def reset(self) -> None:
        """Empty the K/V cache."""
        self.rollback(0)

    def close(self) -> None:
        """Drop the K/V cache; the session is shared with other oracles and stays open."""
        self._cache = self._empty(1)
        self.length = 0

    def batch_logits(self, ids: np.ndarray) -> np.ndarray:
        """Logits [W,S,V] of W independent texts, ids [W,S]; the cache is left alone."""
        return self._step(ids, self._empty(len(ids)))[0]

    def batch_cache(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """K/V that W independent texts, ids [W,S], add: name of the output -> [W, G, S, D]."""
        found = self._step(ids, self._empty(len(ids)))[1]
        return {self._added[name]: array for name, array in found.items()}

    def window_losses(self, ids: np.ndarray) -> np.ndarray:
        """The mean loss of each window, ids [W,S] -> [W]: every token but the first is predicted."""
        step = min(_BATCH, max(1, _LOGITS // (ids.shape[1] * self.vocab)))
        losses: list[float] = []
        for at in range(0, len(ids), step):
            batch = ids[at : at + step]
            losses += [_mean_loss(x[:-1], row[1:]) for x, row in zip(self.batch_logits(batch), batch, strict=True)]
        return np.array(losses)

    def _step(self, ids: np.ndarray, cache: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        batch, tokens = ids.shape
        past = next(iter(cache.values())).shape[2]
        positions = np.broadcast_to(np.arange(past, past + tokens, dtype=np.int32), (batch, tokens))
        feeds = {
            "input_ids": ids.astype(np.int32),
            "position_ids": np.ascontiguousarray(positions),
            "attention_mask": causal_mask(tokens, past),
            **cache,
        }
        out = _run(self._session, feeds)
        return out["logits"], {name: out[added] for name, added in self._added.items()}

    def _empty(self, batch: int) -> dict[str, np.ndarray]:
        shape = (batch, self.arch.kv_heads, 0, self.arch.head_dim)
        return {name: np.zeros(shape, np.float32) for name in self._added}


def _mean_loss(logits: np.ndarray, targets: np.ndarray) -> float:
    """The mean of -log softmax(logits)[target] over positions: logits [S,V], targets [S]."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(shifted, targets[:, None].astype(np.int64), axis=-1)[:, 0]
    return float((np.log(np.exp(shifted).sum(axis=-1)) - chosen).mean())


def perplexity(module: Module, ids: Sequence[int], windows: int = 32, window: int = 256) -> float:
    """exp of the mean loss over the first `windows` windows of `window` tokens of the text `ids`."""
    whole = min(windows, len(ids) // window)
    if whole == 0:
        raise ValueError(f"{len(ids)} tokens do not fill one window of {window}")
    array = np.asarray(ids[: whole * window], np.int32).reshape(whole, window)
    return float(np.exp(DecoderOracle(module).window_losses(array).mean()))


class _Opened(NamedTuple):
    session: onnxruntime.InferenceSession
    parts: list[object]  # of the graph as it was opened; held, so that no id comes back for another object


_opened: weakref.WeakKeyDictionary[ir.Model, _Opened] = weakref.WeakKeyDictionary()


def _cached_session(module: Module) -> onnxruntime.InferenceSession:
    """One session per graph, opened again once a pass has rewritten it."""
    model = module.graphs[MAIN]
    parts = list(_parts(model))
    held = _opened.get(model)
    same = held is not None and len(held.parts) == len(parts)
    if held is not None and same and all(a is b for a, b in zip(held.parts, parts, strict=True)):
        return held.session
    _opened[model] = _Opened(open_session(model), parts)
    return _opened[model].session


def _parts(model: ir.Model) -> Iterator[object]:
    """Every object that a rewrite would exchange: nodes, what they read, their attributes, constants, names."""
    for body in (model.graph, *model.functions.values()):
        for node in body:
            yield node
            yield from node.inputs
            yield from node.attributes.values()
    for value in (*model.graph.inputs, *model.graph.initializers.values(), *model.graph.outputs):
        yield value
        yield value.name
        yield value.const_value
