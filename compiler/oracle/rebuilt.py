"""A decoder that was read out of an ONNX file, beside that file it was read from, both in ONNX Runtime.

    calls   new tokens on empty, short and longer caches: logits, new keys and new values within rounding
    mask    what the file adds to the scores at the whole context: 0 for what a position sees, far below 0 for the rest

The second finds windows that no short call can see.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ..diagnostics.diagnostic import fail
from ..files.cache import read_note, write_note
from ..ir import kv_names
from ..ir.clone import clone_model
from ..ir.decoder_arch import DecoderArch
from ..ir.module import Module, drop_unread_nodes, drop_unused_initializers
from ..sources.onnx.decoder.patterns import Declined, decline
from ..sources.onnx.decoder.recognise import Found, recognise

if TYPE_CHECKING:
    from .onnx_runtime import onnxruntime

Feeds = dict[str, np.ndarray]
CALLS = ((4, 0), (3, 5), (1, 7))  # new tokens, past ones
_BOUND = {np.dtype(np.float32): 1e-3, np.dtype(np.float16): 3e-2}  # of the largest value, layers deep
_EXACT = 1e-6  # of a score that is seen
_FAR_BELOW = -1e3  # of a masked score: its share of a Softmax is no float32
_KIND, _VERSION = "rebuilt", 1  # of the notes; another version proves anew
_LONGEST_REASON = 160
_LONGEST = 4096  # positions that the mask is looked at


def prove_rebuilt(module: Module) -> None:
    """E0381 where a decoder computes something else than the ONNX file it was read from; `module.original` is dropped.

    What was proven once is not run again: the cache has a note of the file as it is.
    """
    original, file, arch = module.original, module.source, module.arch
    module.original = None
    if original is None or file is None or arch is None:
        return
    key = _key(file, module.context)
    if read_note(_KIND, key) is not None:
        return
    try:
        _prove(file, original, recognise(original.graph), arch, module.main, module.context)
    except Declined as reason:
        fail("E0381", f"the decoder in `{file}` is not what its graph looks like: {reason}")
    with contextlib.suppress(OSError):
        write_note(_KIND, key, "proven")


def _key(file: Path, context: int) -> str:
    """Of the file's bytes, and of size and time of what lies beside it: its weights may."""
    digest = hashlib.sha256(f"{_VERSION} {context}".encode())
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    for other in sorted(file.parent.iterdir()):
        facts = other.stat()
        digest.update(f"{other.name} {facts.st_size} {facts.st_mtime_ns}".encode())
    return digest.hexdigest()


def _prove(file: Path, original: ir.Model, found: Found, arch: DecoderArch, built: ir.Model, context: int) -> None:
    roles = _roles(original.graph, found)
    _prove_mask(original, found, roles, arch, min(context, _LONGEST))
    session = _session(file)
    ran = 0
    for tokens, past in CALLS:
        if tokens + past > context:
            continue
        feeds = _feeds(original.graph, found, roles, arch, tokens, past)
        try:
            names = [value.name or "" for value in original.graph.outputs]
            expected = {n: np.asarray(x) for n, x in zip(names, session.run(names, feeds), strict=True)}
        except Exception as problem:  # the engine raises types of its own for each kind of refusal
            if past:
                decline(f"ONNX Runtime does not run it: {_first_line(problem)}")
            continue  # traced with a cache, it may not take an empty one
        _compare(found, arch, expected, _rebuilt(built, found, feeds, roles, tokens, past), past)
        ran += 1
    if not ran:
        decline(f"a context of {context} has no room for a call")


def _session(file: Path) -> onnxruntime.InferenceSession:
    from .onnx_runtime import session

    try:
        return session(str(file), quiet=True)
    except Exception as problem:
        decline(f"ONNX Runtime does not open it: {_first_line(problem)}")


def _roles(graph: ir.Graph, found: Found) -> dict[str, str]:
    """What each input that is no cache is for: `ids`, `mask` or `positions`."""
    caches = {cache.past for layer in found.layers for cache in (layer.keys, layer.values)}
    roles: dict[str, str] = {}
    for value in graph.inputs:
        name = value.name or ""
        if name in caches:
            continue
        lower = name.lower()
        role = "ids" if value is found.ids else "mask" if "mask" in lower else "positions" if "pos" in lower else None
        if role is None or (value.dtype is not None and not _integers(value)):
            decline(f"an input `{name}` that is neither ids, mask, positions nor a cache")
        roles[name] = role
    return roles


def _integers(value: ir.Value) -> bool:
    return value.dtype in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


def _feeds(graph: ir.Graph, found: Found, roles: Mapping[str, str], arch: DecoderArch, tokens: int, past: int) -> Feeds:
    rng = np.random.default_rng(tokens)
    made = _role_arrays(rng.integers(0, arch.vocab, (1, tokens)), past)
    shape = (1, arch.kv_heads, past, arch.head_dim)
    feeds: Feeds = {}
    for value in graph.inputs:
        name, dtype = value.name or "", (value.dtype or ir.DataType.FLOAT).numpy()
        array = made[roles[name]] if name in roles else rng.standard_normal(shape)
        if name in roles and value.shape is not None and len(value.shape) == 1:
            array = array[0]  # positions as a row, [S]
        feeds[name] = array.astype(dtype)
    return feeds


def _rebuilt(
    built: ir.Model, found: Found, feeds: Feeds, roles: Mapping[str, str], tokens: int, past: int
) -> dict[str, np.ndarray]:
    """The same call of the rebuilt graph."""
    from .oracle import causal_mask, run

    given: Feeds = {
        "input_ids": next(feeds[name] for name, role in roles.items() if role == "ids").astype(np.int32),
        "position_ids": np.arange(past, past + tokens, dtype=np.int32)[None],
        "attention_mask": causal_mask(tokens, past),
    }
    for at, layer in enumerate(found.layers):
        for kind, cache in zip(kv_names.KINDS, (layer.keys, layer.values), strict=True):
            given[kv_names.format(kind, at, kv_names.IN)] = feeds[cache.past].astype(np.float32)
    try:
        return run(built, given)
    except Exception as problem:  # the engine raises types of its own for each kind of refusal
        decline(f"rebuilt, it does not run: {_first_line(problem)}")


def _compare(
    found: Found, arch: DecoderArch, expected: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray], past: int
) -> None:
    pairs = [(expected[_logits(found, expected)], made["logits"], "logits")]
    for at, layer in enumerate(found.layers):
        for kind, cache in zip(kv_names.KINDS, (layer.keys, layer.values), strict=True):
            new = made[kv_names.format(kind, at, kv_names.OUT)]
            pairs.append((expected[cache.present][:, :, past:], new, f"new {kind}s of layer {at}"))
    for theirs, ours, what in pairs:
        bound = _BOUND.get(theirs.dtype, 1e-1)
        if theirs.shape != ours.shape:
            decline(f"rebuilt, its {what} have the shape {list(ours.shape)} in place of {list(theirs.shape)}")
        a, b = theirs.astype(np.float64), ours.astype(np.float64)
        scale = np.abs(a).max(initial=0.0)
        error = np.abs(a - b).max(initial=0.0) / (scale or 1.0)
        if not error <= bound:
            decline(f"rebuilt, its {what} are {error:.2g} of the largest value off, {bound:g} is rounding")


def _logits(found: Found, expected: Mapping[str, np.ndarray]) -> str:
    caches = {cache.present for layer in found.layers for cache in (layer.keys, layer.values)}
    return next(name for name in expected if name not in caches)


def _prove_mask(original: ir.Model, found: Found, roles: Mapping[str, str], arch: DecoderArch, context: int) -> None:
    """The mask of every layer at the whole context, computed by the file's own graph."""
    tokens = min(2, context)
    past = context - tokens
    model = _masks_alone(original, found)
    from .oracle import run

    try:
        made = run(model, _mask_feeds(model.graph, roles, tokens, past, found))
    except Exception as problem:  # the engine raises types of its own for each kind of refusal
        decline(f"its mask does not run by itself: {_first_line(problem)}")
    position = np.arange(past, context)[:, None]
    for at, layer in enumerate(found.layers):
        window = arch.window if arch.has_window(at) else None
        distance = position - np.arange(context)[None]
        seen = (distance >= 0) & (distance < (window or context))
        full = made[layer.mask.name or ""]
        if full.ndim != 4 or full.shape[-1] < context:
            decline(f"a mask of shape {list(full.shape)} over {context} positions")
        mask = np.broadcast_to(full[0, 0, :, :context], seen.shape).astype(np.float64)
        if not (np.abs(mask[seen]) < _EXACT).all() or not (mask[~seen] <= _FAR_BELOW).all():
            kind = "causal" if window is None else f"that of a window of {window}"
            decline(f"the mask of layer {at} is not {kind} over {context} positions")


def _masks_alone(original: ir.Model, found: Found) -> ir.Model:
    """What makes the masks, and nothing else of the graph."""
    model = clone_model(original)
    graph = model.graph
    known = {value.name: value for node in graph for value in node.outputs}
    graph.outputs.clear()
    graph.outputs.extend(known[name] for name in dict.fromkeys(layer.mask.name for layer in found.layers))
    drop_unread_nodes(graph, lambda _node: True)
    drop_unused_initializers(graph)
    used = {value for node in graph for value in node.inputs}
    for value in list(graph.inputs):
        if value not in used:
            graph.inputs.remove(value)
    return model


def _mask_feeds(graph: ir.Graph, roles: Mapping[str, str], tokens: int, past: int, found: Found) -> Feeds:
    layer = found.layers[0]
    made = _role_arrays(np.zeros((1, tokens)), past)
    cache = np.zeros((1, layer.kv_heads, past, layer.head_dim))
    names = {value.name or "": (value.dtype or ir.DataType.FLOAT).numpy() for value in graph.inputs}
    return {name: (made[roles[name]] if name in roles else cache).astype(dtype) for name, dtype in names.items()}


def _role_arrays(ids: np.ndarray, past: int) -> Feeds:
    """What goes into the inputs of each role for new `ids` [1,S]."""
    tokens = ids.shape[1]
    return {
        "ids": ids,
        "mask": np.ones((1, past + tokens), np.int64),
        "positions": np.arange(past, past + tokens)[None],
    }


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [""])[0][:_LONGEST_REASON]
