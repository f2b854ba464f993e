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
import onnx
import onnx_ir as ir

from ..diagnostics.diagnostic import fail
from ..files.cache import read_note, write_note
from ..ir import kv_names
from ..ir.decoder_arch import DecoderArch
from ..ir.module import Module
from ..sources.onnx.decoder.masks import FAR_BELOW, feeds, made_alone, roles
from ..sources.onnx.decoder.recognise import Found, recognise
from ..sources.onnx.decoder.walk import Declined, decline
from ..sources.onnx.inline_weights import skeleton

if TYPE_CHECKING:
    from ..ir.onnx_runtime import onnxruntime

Feeds = dict[str, np.ndarray]
CALLS = ((4, 0), (3, 5), (1, 7))  # new tokens, past ones
_BOUND = {np.dtype(np.float32): 1e-3, np.dtype(np.float16): 3e-2}  # of the largest value, layers deep
_EXACT = 1e-6  # of a score that is seen
_KIND, _VERSION = "rebuilt", 2  # of the notes; another version proves anew
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
    given = roles(original.graph, found)
    _prove_mask(original, found, given, arch, min(context, _LONGEST))
    session = _session(file)
    ran = 0
    for tokens, past in CALLS:
        if tokens + past > context:
            continue
        rng = np.random.default_rng(tokens)
        ids = rng.integers(0, arch.vocab, (1, tokens))
        fed = feeds(original.graph, given, found, ids, past, rng.standard_normal)
        try:
            names = [value.name or "" for value in original.graph.outputs]
            expected = {n: np.asarray(x) for n, x in zip(names, session.run(names, fed), strict=True)}
        except Exception as problem:  # the engine raises types of its own for each kind of refusal
            if past and tokens == 1:
                decline(f"ONNX Runtime does not run it: {_first_line(problem)}")
            continue  # a file may take no empty cache, and one token alone behind another
        _compare(found, arch, expected, _rebuilt(built, found, fed, given, tokens, past), past)
        ran += 1
    if not ran:
        decline(f"a context of {context} has no room for a call")


def _session(file: Path) -> onnxruntime.InferenceSession:
    from ..ir.onnx_runtime import session

    held = skeleton(file)  # ONNX Runtime reads the weights from the file, and no second copy of them is parsed
    exact = _in_floats(file, held) or held
    try:
        where = str(file.parent) if exact else ""
        return session(str(file) if exact is None else exact, quiet=True, weights_in=where, once=True)
    except Exception as problem:
        decline(f"ONNX Runtime does not open it: {_first_line(problem)}")


def _in_floats(file: Path, held: bytes | None) -> bytes | None:
    """The file with its MatMulNBits told to compute in floats; None where none rounds what it reads to integers.

    `held`: the model in it without its large weights, if it has some.
    """
    proto = onnx.load(file, load_external_data=False) if held is None else onnx.ModelProto.FromString(held)
    found = [one for node in proto.graph.node if node.op_type == "MatMulNBits" for one in node.attribute]
    rounding = [one for one in found if one.name == "accuracy_level" and one.i > 1]
    for one in rounding:
        one.i = 1
    return proto.SerializeToString() if rounding else None


def _rebuilt(
    built: ir.Model, found: Found, fed: Feeds, roles: Mapping[str, str], tokens: int, past: int
) -> dict[str, np.ndarray]:
    """The same call of the rebuilt graph."""
    from .oracle import causal_mask, run

    given: Feeds = {
        "input_ids": next(fed[name] for name, role in roles.items() if role == "ids").astype(np.int32),
        "position_ids": np.arange(past, past + tokens, dtype=np.int32)[None],
        "attention_mask": causal_mask(tokens, past),
    }
    for at, layer in enumerate(found.layers):
        for kind, cache in zip(kv_names.KINDS, (layer.keys, layer.values), strict=True):
            held = fed[cache.past].astype(np.float32)
            given[kv_names.format(kind, at, kv_names.IN)] = np.ascontiguousarray(held.transpose(cache.places))
    try:
        return run(built, given)
    except OSError:  # no room for a file of it: that is no refusal
        raise
    except Exception as problem:  # the engine raises types of its own for each kind of refusal
        decline(f"rebuilt, it does not run: {_first_line(problem)}")


def _compare(
    found: Found, arch: DecoderArch, expected: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray], past: int
) -> None:
    pairs = [(expected[_logits(found, expected)], made["logits"], "logits")]
    for at, layer in enumerate(found.layers):
        for kind, cache in zip(kv_names.KINDS, (layer.keys, layer.values), strict=True):
            new = made[kv_names.format(kind, at, kv_names.OUT)]
            whole = expected[cache.present]
            if whole.ndim != len(cache.places):
                decline(f"{kind}s of layer {at} with {whole.ndim} axes")
            pairs.append((whole.transpose(cache.places)[:, :, past:], new, f"new {kind}s of layer {at}"))
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


def _prove_mask(original: ir.Model, found: Found, given: Mapping[str, str], arch: DecoderArch, context: int) -> None:
    """The mask of every layer at the whole context, computed by the file's own graph; of an op that has a mask of its
    own the number of positions that it is told, and its window.
    """
    sources = [layer.mask if layer.mask is not None else layer.lengths for layer in found.layers]
    model = made_alone(original, [value.name or "" for value in sources if value is not None])
    made, past = _masks(model, found, given, context)
    for at, (layer, source) in enumerate(zip(found.layers, sources, strict=True)):
        held = made[source.name or ""] if source is not None else np.zeros(0)
        window = arch.window if arch.has_window(at) else None
        if layer.mask is not None:
            _prove_scores(held, at, window, past, context)
        elif layer.window != window and (layer.window or 0) < context:
            decline(f"layer {at} attends to {layer.window or 'all'} positions")
        elif held.reshape(-1).tolist() != [context - 1]:
            decline(f"layer {at} is told of {held.reshape(-1)[:1].tolist()} positions before the last of {context}")


def _masks(model: ir.Model, found: Found, given: Mapping[str, str], context: int) -> tuple[Feeds, int]:
    """(what `model` makes, past positions) for two new ones, or for one where the file takes no more behind others."""
    from ..ir.onnx_runtime import quiet_session
    from .oracle import open_session

    problem: Exception = Exception()
    for tokens in range(min(2, context), 0, -1):
        past = context - tokens
        try:
            opened = open_session(model, quiet_session)
            names = [output.name for output in opened.get_outputs()]
            made = opened.run(names, feeds(model.graph, given, found, np.zeros((1, tokens)), past))
        except OSError:  # no room for a file of it: that is no refusal
            raise
        except Exception as found_out:  # the engine raises types of its own for each kind of refusal
            problem = found_out
            continue
        return {name: np.asarray(value) for name, value in zip(names, made, strict=True)}, past
    decline(f"its mask does not run by itself: {_first_line(problem)}")


def _prove_scores(full: np.ndarray, at: int, window: int | None, past: int, context: int) -> None:
    """`full` [..,S,T] leaves what a window of layer `at` sees, and hides the rest."""
    distance = np.arange(past, context)[:, None] - np.arange(context)[None]
    seen = (distance >= 0) & (distance < (window or context))
    if full.ndim < 2 or full.shape[-1] < context:
        decline(f"a mask of shape {list(full.shape)} over {context} positions")
    if full.dtype == np.bool_:
        full = np.where(full, 0.0, 2 * FAR_BELOW)
    mask = full.reshape(-1, *full.shape[-2:])[0][:, :context]
    mask = np.broadcast_to(mask, seen.shape).astype(np.float64)
    if not (np.abs(mask[seen]) < _EXACT).all() or not (mask[~seen] <= FAR_BELOW).all():
        kind = "causal" if window is None else f"that of a window of {window}"
        decline(f"the mask of layer {at} is not {kind} over {context} positions")


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [""])[0][:_LONGEST_REASON]
