"""Attention over a K/V cache, and rotary embedding, from ops that HTP computes right.

    K[1,KV,HD,C] = concat(past_key[KV,1,HD,P], k^T[KV,1,HD,S]),   V[1,KV,C,HD] likewise,   C = P + S,  R = H / KV
    s[1,H,S,C]   = clip(fold(q * scale)[1,KV,R*S,HD] @ K, -60, 60) + mask
    y[1,H,S,HD]  = fold(softmax(s)) @ V

Query heads of one K/V head are folded into its rows, so that K and V are never repeated. Scores are clipped before
the mask is added, because Genie leaves unused cache positions uninitialised; a real score beyond ±60 would already
be a softmax of one position to within e^-60.

    rotate(x)[.., :h] = x1*cos - x2*sin,  [.., h:2h] = x2*cos + x1*sin       x1 = x[.., :h], x2 = x[.., h:2h]
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ....compiler.emit.refusals import refuse
from ....compiler.ir.activation_encodings import Encoding
from ....compiler.ir.annotations import SCORES
from .builder import ON_CPU, static_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    from .integer_activations import Integers
    from .lowering import Lowering

SCORE_LIMIT = 60.0


def _attr(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _attention(low: Lowering, node: ir.Node) -> ir.Value:
    q, k, v = node.inputs[:3]
    if q is None or k is None or v is None:
        raise ValueError(f"Attention `{node.name}` lacks an input")
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    past = [node.inputs[i] if len(node.inputs) > i else None for i in (4, 5)]
    _refuse_variants(node, q)
    _, heads, tokens, size = static_shape(q)
    groups = static_shape(k)[1]
    build = low.build
    keys, values = _with_past(low, k, v, past)
    context = static_shape(keys)[-1]
    whole = low.integers
    words: dict[str, Any] = {} if whole is None else {"kv": whole.known(keys).dtype}
    low.use(
        "attention", node, tokens=tokens, context=context, heads=heads, kv_heads=groups, head_dim=size,
        cache=past[0] is not None, mask=mask is not None, **words,
    )  # fmt: skip
    rows = heads // groups * tokens
    scale = float(_attr(node, "scale", 1.0 / math.sqrt(size)))
    scaled = build.op("Mul", low.value(q), build.scalar(scale), shape=static_shape(q), step="scale")
    if whole is not None:
        _encode_scores(low, whole, node, scaled, scale)
    folded = build.reshape(scaled, (1, groups, rows, size), "fold_queries")
    scores = build.op("MatMul", folded, keys, shape=(1, groups, rows, context), step="scores")
    if whole is not None:
        whole.encode(build, scores, Encoding.over(*_span(node), "uint16"))
    scores = build.reshape(scores, (1, heads, tokens, context), "heads")
    if mask is not None and whole is not None:  # integers cannot leave the range of the scores: nothing to clip
        scores = build.op("Add", scores, low.value(mask), shape=static_shape(scores), step="mask")
        bottom, top = _span(node)
        whole.encode(build, scores, Encoding.over(bottom - whole.masked, top, "uint16"))
    elif mask is not None:
        low_, high = build.scalar(-SCORE_LIMIT), build.scalar(SCORE_LIMIT)
        scores = build.op("Clip", scores, low_, high, shape=static_shape(scores), step="clip")
        scores = build.op("Add", scores, low.value(mask), shape=static_shape(scores), step="mask")
    weights = build.op("Softmax", scores, shape=static_shape(scores), step="softmax", axis=-1)
    if whole is not None:
        whole.encode(build, weights, Encoding.over(0.0, 1.0, "uint16"))
    weights = build.reshape(weights, (1, groups, rows, context), "fold_weights")
    mixed = build.op("MatMul", weights, values, shape=(1, groups, rows, size), step="mix")
    return build.reshape(mixed, (1, heads, tokens, size), "unfold")


def _encode_scores(low: Lowering, whole: Integers, node: ir.Node, scaled: ir.Value, scale: float) -> None:
    """Ranges of what Attention makes before its scores; the mask reaches down to what a softmax cannot see."""
    q, mask = node.inputs[0], node.inputs[3] if len(node.inputs) > 3 else None
    ends = whole.known(low.value(q))
    whole.encode(low.build, scaled, Encoding.over(ends.low * scale, ends.high * scale, "uint16"))
    if mask is not None:
        whole.encode(low.build, low.value(mask), Encoding.over(-whole.masked, 0.0, "uint16"))


def _span(node: ir.Node) -> tuple[float, float]:
    found = SCORES.get(node)
    if found is None:
        refuse(
            "E0638",
            "the range of the scores of {} is not known, and integer activations need it",
            node.name or "",
            help="measure it: `activations = uint16` on a `quantize` line after the pass that made this op",
        )
    return found


def _refuse_variants(node: ir.Node, q: ir.Value) -> None:
    """What ONNX Attention can also do and this lowering does not."""
    rank = len(static_shape(q))
    odd = [name for name in ("is_causal", "softcap", "qk_matmul_output_mode") if _attr(node, name, 0)]
    if rank != 4:
        odd.append(f"rank {rank} queries")
    if static_shape(q)[0] != 1:
        odd.append("batch > 1")
    if odd:
        refuse(
            "E0634",
            f"{{}}: Attention with {', '.join(odd)} has no lowering for HTP",
            node.name or "",
            help="`place (device = cpu) on {on}`, or export it with an additive mask and batch 1",
        )


def _with_past(low: Lowering, k: ir.Value, v: ir.Value, past: list[ir.Value | None]) -> tuple[ir.Value, ir.Value]:
    """All keys [1,KV,HD,C] and values [1,KV,C,HD], the cache first."""
    build = low.build
    _, groups, tokens, size = static_shape(k)
    keys, values = low.key_columns(k), low.value_rows(v)
    if past[0] is not None and past[1] is not None:
        old_keys, old_values = _cached(low, past[0], keys=True), _cached(low, past[1], keys=False)
        tokens += static_shape(old_keys)[-1]
        keys = build.op("Concat", old_keys, keys, shape=(groups, 1, size, tokens), step="keys", axis=3)
        values = build.op("Concat", old_values, values, shape=(groups, 1, tokens, size), step="values", axis=2)
    keys = build.reshape(keys, (1, groups, size, tokens), "all_keys")
    return keys, build.reshape(values, (1, groups, tokens, size), "all_values")


def _cached(low: Lowering, value: ir.Value, keys: bool) -> ir.Value:
    """The cache in its own layout; past keys that are not an input of the model are transposed to it."""
    held = low.cache(value)
    if held is not None:
        return held
    return low.key_columns(value) if keys else low.value_rows(value)


def _rotary_embedding(low: Lowering, node: ir.Node) -> ir.Value:
    x, cos, sin = node.inputs[:3]
    if x is None or cos is None or sin is None:
        raise ValueError(f"RotaryEmbedding `{node.name}` lacks an input")
    shape = static_shape(x)
    odd = "interleaved pairs" if _attr(node, "interleaved", 0) else "a rank other than 4" if len(shape) != 4 else ""
    odd = "position ids as an input" if len(node.inputs) > 3 and node.inputs[3] is not None else odd
    if odd:
        refuse("E0634", f"{{}}: RotaryEmbedding with {odd} has no lowering for HTP", node.name or "", help=ON_CPU)
    _, heads, tokens, size = shape
    turned = int(_attr(node, "rotary_embedding_dim", 0)) or size
    low.use("rotary", node, tokens=tokens, heads=heads, head_dim=size, turned=turned == size)
    build, value = low.build, low.value(x)
    c, s = low.rotary(cos, sin)
    half = (1, heads, tokens, turned // 2)
    whole = low.integers
    if whole is not None and turned < size:
        refuse(
            "E0634",
            "{}: RotaryEmbedding of a part of a head has no lowering for HTP on integers",
            node.name or "",
            help="use `activations = fp16`",
        )
    a, b = build.slice(value, 0, turned // 2, "first"), build.slice(value, turned // 2, turned, "second")

    def mul(v: ir.Value, angle: ir.Value, step: str) -> ir.Value:
        made = build.op("Mul", v, angle, shape=half, step=step)
        if whole is not None:  # |cos| <= 1
            ends, reach = whole.known(v), whole.known(angle).high
            most = max(-ends.low, ends.high) * reach
            whole.encode(build, made, Encoding.over(-most, most, "uint16"))
        return made

    first = build.op("Sub", mul(a, c, "a_cos"), mul(b, s, "b_sin"), shape=half, step="real")
    second = build.op("Add", mul(b, c, "b_cos"), mul(a, s, "a_sin"), shape=half, step="imaginary")
    parts = [first, second] + ([build.slice(value, turned, size, "rest")] if turned < size else [])
    return build.op("Concat", *parts, shape=shape, step="rotated", axis=-1)


RULES = {"Attention": _attention, "RotaryEmbedding": _rotary_embedding}
