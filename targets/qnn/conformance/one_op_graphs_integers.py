"""One-op graphs on integer activations: pairs on what comes in and goes out, as the passes put them.

Ranges are those of the case's own values. What Attention's cache holds beyond its filled half is clipped to the range
of the keys, as anything stored in integers is.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ....compiler.ir.activation_encodings import Encoding, insert
from ....compiler.ir.annotations import FORMAT, SCORES
from ....compiler.ir.weight_format import TWO_LEVEL, WeightFormat
from ....compiler.oracle.oracle import run
from . import one_op_graphs as makers
from .one_op_graphs import PAST_KEY, PAST_VALUE, GraphAndFeeds, Sketch

_READERS = 64  # outputs of the linear that reads another's result
ROOM = 1.1  # as calibration leaves it
_FREE = ("cos", "sin", "attention_mask")  # these get their encoding from the emitter


def integers(made: GraphAndFeeds, dtype: str = "uint16", cache: str = "int16") -> GraphAndFeeds:
    """`made` with a pair on every float input and output; `cache` for K/V."""
    model, feeds = made
    outputs = run(model, feeds)
    graph = model.graph
    for value in list(graph.inputs):
        name = value.name or ""
        if name in _FREE or feeds[name].dtype.kind != "f":
            continue
        held = feeds[{PAST_KEY: "k", PAST_VALUE: "v"}.get(name, name)]
        kind = cache if name in ("k", "v", PAST_KEY, PAST_VALUE) else dtype
        insert(graph, value, name, _over(held, kind), None)
    for value in list(graph.outputs):
        insert(graph, value, f"{value.name}.made", _over(outputs[value.name or ""], dtype), None)
    for node in graph:
        if node.op_type == "Attention":
            low, high = _scores(feeds, node.attributes["scale"].as_float())
            SCORES.set(node, (ROOM * low, ROOM * high))
    return model, feeds


def _over(array: np.ndarray, dtype: str) -> Encoding:
    return Encoding.over(float(array.min()), float(array.max()), dtype)


def _scores(feeds: dict[str, np.ndarray], scale: float) -> tuple[float, float]:
    """Ends of q k^T over all positions, the unfilled ones clipped."""
    q, k = feeds["q"], feeds["k"]
    if PAST_KEY in feeds:
        k = np.concatenate([feeds[PAST_KEY].clip(k.min(), k.max()), k], axis=2)
    repeat = q.shape[1] // k.shape[1]
    scores = q @ np.repeat(k, repeat, axis=1).swapaxes(-1, -2) * scale
    return float(scores.min()), float(scores.max())


def linear(
    tokens: int, k: int, n: int, weights: str, format: str, block: int, activations: str, read: bool = False
) -> GraphAndFeeds:
    """A linear in one of the formats of `linear_integers.py`; int16 stands for a float weight.

    `read`: a second linear reads the result, as in a model. HTP writes some outputs of a graph wrong ([1,128,2560] to
    [1,128,4096] behind LPBQ), which says nothing about the product.
    """
    if weights == "int16":
        return integers(makers.matmul(tokens, k, n), activations)
    g, bits = Sketch(), int(weights.removeprefix("int"))
    dtype = ir.DataType[weights.upper()]
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    q = g.const("op.weight", g.rng.integers(low, high + 1, (n, k), np.int16), dtype)
    grain = (n, k // block) if block else (n,)
    scale = g.rng.uniform(0.5, 1.5, grain)
    if format == "lpbq":
        parts = g.rng.integers(1, 16, grain)
        parts[:, 0] = 15
        scale = parts * np.round(g.rng.uniform(4, 8, (n, 1)) * 16) / 1024
        if q.const_value is not None:
            FORMAT.set(q.const_value, WeightFormat(bits, block, True, scales=TWO_LEVEL))
    scale = (scale / 2.0 ** round(math.log2((high - low) * math.sqrt(k) / 4))).astype(np.float32)
    attributes = {"axis": 1, "block_size": block} if block else {"axis": 0}
    w = g.op("DequantizeLinear", q, g.const("op.weight_scale", scale), shape=(n, k), name="op.dequant", **attributes)
    turned = g.op("Transpose", w, shape=(k, n), name="op.transpose", perm=[1, 0])
    y = g.op("MatMul", g.input("x", 1, tokens, k), turned, shape=(1, tokens, n))
    if not read:
        return integers(g.done(y), activations)
    model, feeds = g.done(_read(g, y, tokens, n))
    y.name = "product"
    model.graph.outputs.append(y)
    encoding = _over(run(model, feeds)["product"], activations)
    model.graph.outputs.pop()
    insert(model.graph, y, "product", encoding, None)
    return integers((model, feeds), activations)


def _read(g: Sketch, y: ir.Value, tokens: int, n: int) -> ir.Value:
    """A second linear behind `y`, int8 per channel with few outputs: what reads the result in a model."""
    q = g.const("read.weight", g.rng.integers(-127, 128, (_READERS, n)), ir.DataType.INT8)
    scale = (g.rng.uniform(0.5, 1.5, _READERS) / 127 / math.sqrt(n)).astype(np.float32)
    w = g.op("DequantizeLinear", q, g.const("read.scale", scale), shape=(_READERS, n), name="read.dequant", axis=0)
    turned = g.op("Transpose", w, shape=(n, _READERS), name="read.transpose", perm=[1, 0])
    return g.op("MatMul", y, turned, shape=(1, tokens, _READERS), name="read")


def attention(tokens: int, context: int, heads: int, kv_heads: int, head_dim: int, kv: str) -> GraphAndFeeds:
    """Attention as in float, every tensor in uint16; the cache in the type `kv`."""
    return integers(makers.attention(tokens, context, heads, kv_heads, head_dim, True, True), "uint16", kv)
