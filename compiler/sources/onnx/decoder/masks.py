"""The mask of an exported decoder: the part of its graph that makes it, and the windows that it shows.

A window of W positions shows at the last position of a context: the last W scores of its row are left as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx_ir as ir

from ....ir.clone import clone_model
from ....ir.module import drop_unread_nodes, drop_unused_initializers
from .recognise import Found
from .walk import Declined, decline

Feeds = dict[str, np.ndarray]
FAR_BELOW = -1e3  # of a masked score: its share of a Softmax is no float32
_NOT_RUN = ("If", "Loop", "Scan")  # of a file that nobody has run yet
_MOST_NODES = 1000
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


def roles(graph: ir.Graph, found: Found) -> dict[str, str]:
    """What each input that is no cache is for: `ids`, `mask` or `positions`; `Declined` for another."""
    caches = {cache.past for layer in found.layers for cache in (layer.keys, layer.values)}
    made: dict[str, str] = {}
    for value in graph.inputs:
        name = value.name or ""
        if name in caches:
            continue
        lower = name.lower()
        role = "ids" if value is found.ids else "mask" if "mask" in lower else "positions" if "pos" in lower else None
        if role is None or (value.dtype is not None and value.dtype not in _INTEGERS):
            decline(f"an input `{name}` that is neither ids, mask, positions nor a cache")
        made[name] = role
    return made


def role_arrays(ids: np.ndarray, past: int) -> Feeds:
    """What goes into the inputs of each role for new `ids` [1,S]."""
    tokens = ids.shape[1]
    return {
        "ids": ids,
        "mask": np.ones((1, past + tokens), np.int64),
        "positions": np.arange(past, past + tokens)[None],
    }


def made_alone(original: ir.Model, names: Iterable[str]) -> ir.Model:
    """What makes the values `names`, and nothing else of the graph."""
    model = clone_model(original)
    graph = model.graph
    known = {value.name: value for node in graph for value in node.outputs}
    graph.outputs.clear()
    graph.outputs.extend(known[name] for name in dict.fromkeys(names))
    drop_unread_nodes(graph, lambda _node: True)
    drop_unused_initializers(graph)
    used = {value for node in graph for value in node.inputs}
    for value in list(graph.inputs):
        if value not in used:
            graph.inputs.remove(value)
    return model


def feeds(
    graph: ir.Graph,
    given: Mapping[str, str],
    found: Found,
    ids: np.ndarray,
    past: int,
    filled: Callable[[tuple[int, ...]], np.ndarray] = np.zeros,
) -> Feeds:
    """Inputs of a decoder, or of what makes its masks: the new `ids` [1,S] behind `past` positions, whose keys and
    values are `filled`; `given` are roles. Positions may be a row [S].
    """
    layer = found.layers[0]
    made = role_arrays(ids, past)
    caches = {cache.past: cache for one in found.layers for cache in (one.keys, one.values)}
    fed: Feeds = {}
    for value in graph.inputs:
        name, dtype = value.name or "", (value.dtype or ir.DataType.FLOAT).numpy()
        if name in given:
            array = made[given[name]]
            array = array[0] if value.shape is not None and len(value.shape) == 1 else array
        else:
            array = filled(caches[name].shape(1, layer.kv_heads, past, layer.head_dim))
        fed[name] = array.astype(dtype)
    return fed


def windows(original: ir.Model, found: Found, context: int) -> list[int | None]:
    """How many positions each layer attends to, its own among them; None for all of `context`, or where it does not
    show: whoever proves the decoder sees the whole mask.
    """
    names = [layer.mask.name or "" for layer in found.layers if layer.mask is not None]
    shown: dict[str, int | None] = {}
    if names and context > 2:
        shown = _shown(made_alone(original, names), found, roles(original.graph, found), context)
    stated = [layer.window if layer.mask is None else shown.get(layer.mask.name or "") for layer in found.layers]
    return [None if window is None or window >= context else window for window in stated]


def _shown(model: ir.Model, found: Found, given: Mapping[str, str], context: int) -> dict[str, int | None]:
    """The windows in the masks that `model` makes, by the names of its outputs."""
    if len(model.graph) > _MOST_NODES or any(node.op_type in _NOT_RUN or node.domain for node in model.graph):
        return {}
    from onnx.reference import ReferenceEvaluator

    logger = logging.getLogger("onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        made = ReferenceEvaluator(ir.to_proto(model)).run(
            None, feeds(model.graph, given, found, np.zeros((1, 2)), context - 2)
        )
    except Declined:
        raise
    except Exception:  # of a hostile graph anything: the proof says what it makes of it
        return {}
    finally:
        logger.setLevel(level)
    return {value.name or "": _window(np.asarray(mask)) for value, mask in zip(model.graph.outputs, made, strict=True)}


def _window(mask: np.ndarray) -> int | None:
    """How many of the last positions the last row of `mask` [..,S,T] leaves; None where these are no window."""
    if mask.ndim < 2:
        return None
    rows = mask.reshape(-1, *mask.shape[-2:])[0]
    seen = rows if rows.dtype == np.bool_ else rows > FAR_BELOW
    count = int(seen[-1].sum())
    causal = len(seen) < 2 or not seen[0, -1]
    return count if causal and count and seen[-1, -count:].all() else None
