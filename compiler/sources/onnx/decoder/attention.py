"""Attention of an exported decoder, read from what its output projection reads back to the norm before q, k and v.

in primitive ops     softmax(scale q [past_k, k]^T + mask) [past_v, v]
MultiHeadAttention   of ONNX Runtime: (q, k, v, bias?, -, mask, past_k?, past_v?); ONNX's Attention alike
GroupQueryAttention  of ONNX Runtime: (q, k, v, past_k, past_v, lengths, total, cos?, sin?), q, k, v may be one; its
                     mask is causal, of a window where it states one

q, k = rotary(norm?(heads(Wq n))), …     v = heads(Wv n),   n = norm(residual stream)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir

from ....ir.module import constant
from ....ir.weights import slice_rows
from .patterns import Norm, norm
from .projections import Projection, is_projection, projection
from .rotary import Rotation, from_rows, rotation
from .walk import base, decline, maker, split, through

_SHAPED = ("Transpose", "Reshape", "Expand", "Unsqueeze", "Squeeze")
_ONE_OP = ("MultiHeadAttention", "Attention", "GroupQueryAttention")
_GROUPED = {"softcap": 0.0, "rotary_interleaved": 0, "smooth_softmax": (-1, 0), "kv_cache_bit_width": 0}
_LAST_OF_GROUPED = 9  # inputs behind that one: biases, sinks and scales that edgec has no form for
_PAST = {"MultiHeadAttention": (6, 7), "Attention": (4, 5)}
_PLACES = {1: (0, 2, 1, 3), 2: (0, 1, 2, 3), 3: (0, 1, 3, 2)}  # by the axis that positions lie along
_MASK = {"MultiHeadAttention": 5, "Attention": 3}


@dataclass(frozen=True)
class Cache:
    """Past keys or values of one layer: the input, and the output with the new ones behind them.

    `places`: where the axes batch, heads, positions and channels lie in them.
    """

    past: str
    present: str
    new: ir.Value
    places: tuple[int, int, int, int] = (0, 1, 2, 3)

    def shape(self, *sizes: int) -> tuple[int, ...]:
        """The shape of a tensor of so many batches, heads, positions and channels."""
        return tuple(sizes[self.places.index(axis)] for axis in range(len(sizes)))


@dataclass(frozen=True)
class Heads:
    """Attention of a layer, up to its output projection.

    mask      what is added to the scores, None where the op has a mask of its own
    lengths   what such an op is told of the positions that are there: int [B] of their number less one
    window    how many positions it attends to, None: all before its own
    """

    input_norm: Norm
    query: Projection
    key: Projection
    value: Projection
    scale: float
    mask: ir.Value | None
    keys: Cache
    values: Cache
    query_norm: Norm | None
    key_norm: Norm | None
    turns: Rotation | None
    head_dim: int
    kv_heads: int
    lengths: ir.Value | None
    window: int | None


@dataclass(frozen=True)
class _Part:
    """One of q, k and v: linear, norm of its heads, rotary embedding."""

    linear: Projection
    norm: Norm | None
    turns: Rotation | None


def attention(output: Projection) -> Heads:
    """The attention whose result the linear `output` reads."""
    at, _ = through(output.input, _SHAPED)
    node = maker(at, "MatMul", *_ONE_OP, wanted="attention")
    if node.op_type == "GroupQueryAttention":
        return _grouped(node)
    return _in_primitives(node) if node.op_type == "MatMul" else _one_op(node)


def _in_primitives(product: ir.Node) -> Heads:
    softmax = _softmax(product.inputs[0])
    scores, mask = _masked(softmax.inputs[0])
    at, scale = through(scores, ())
    dots = maker(at, "MatMul")
    q, of_query = through(dots.inputs[0], ())
    k, of_key = through(dots.inputs[1], _SHAPED)
    v, of_value = through(product.inputs[1], _SHAPED)
    if of_value != 1.0:
        decline("values that are scaled", product)
    keys, values = _cache(k), _cache(v)
    parts = _part(q), _part(keys.new), _part(values.new)
    size = _head_dim(k, parts[0].turns, dots)
    return _made(parts, scale * of_query * of_key, mask, keys, values, size, dots)


def _one_op(node: ir.Node) -> Heads:
    """MultiHeadAttention of ONNX Runtime and Attention of ONNX: what is past and new goes in apart, or as one."""
    inputs = [*node.inputs, *[None] * 8]
    if node.attributes.get_float("softcap", 0.0) or (node.domain and inputs[4] is not None):
        decline("scores that are capped, or masked by a key's padding", node)
    mask, places = inputs[_MASK[node.op_type]], _PAST[node.op_type]
    if mask is None:
        decline("no mask where a decoder has one", node)
    if inputs[places[0]] is not None:
        keys, values = (_cache_of(node, inputs[places[i]], 1 + i, inputs[1 + i]) for i in range(2))
    else:
        keys, values = (_cache(through(inputs[1 + i], _SHAPED)[0]) for i in range(2))
    parts = [_part(inputs[0]), _part(keys.new), _part(values.new)]
    if node.domain and inputs[3] is not None:
        parts = _with_biases(parts, inputs[3], node)
    heads = node.attributes.get_int("num_heads" if node.domain else "q_num_heads", 0)
    size = parts[0].linear.outputs // heads if heads else _head_dim(base(inputs[0]), parts[0].turns, node)
    scale = node.attributes.get_float("scale", 0.0) or size**-0.5
    return _made((parts[0], parts[1], parts[2]), scale, base(mask), keys, values, size, node)


def _with_biases(parts: list[_Part], value: ir.Value, node: ir.Node) -> list[_Part]:
    """The biases of q, k and v, one behind the other in one constant."""
    held = constant(base(value))
    sizes = [part.linear.outputs for part in parts]
    if held is None or held.dims != (sum(sizes),):
        decline("biases of q, k and v that are computed", node)
    made, at = [], 0
    for part, size in zip(parts, sizes, strict=True):
        bias = slice_rows(f"{held.name}[{at}:{at + size}]", held, at, at + size)
        made.append(replace(part, linear=part.linear.with_bias(bias)))
        at += size
    return made


def _grouped(node: ir.Node) -> Heads:
    for name, plain in _GROUPED.items():
        stated = node.attributes.get(name)
        if stated is not None and stated.value not in (plain if isinstance(plain, tuple) else (plain,)):
            decline(f"a GroupQueryAttention with `{name}` {stated.value}", node)
    inputs = [*node.inputs, *[None] * 9]
    more = next((value for value in node.inputs[_LAST_OF_GROUPED + 1 :] if value is not None), None)
    if more is not None:
        decline(f"a GroupQueryAttention with the input `{more.name}`", node)
    heads, kv_heads = node.attributes.get_int("num_heads", 0), node.attributes.get_int("kv_num_heads", 0)
    if not heads or not kv_heads:
        decline("a GroupQueryAttention that does not say its heads", node)
    parts = _joined(inputs[0], heads, kv_heads) if inputs[1] is None else [_part(value) for value in inputs[:3]]
    size = parts[0].linear.outputs // heads
    if node.attributes.get_int("do_rotary", 0):
        cos, sin = constant(base(inputs[7])), constant(base(inputs[8]))
        if cos is None or sin is None:
            decline("a GroupQueryAttention whose rows of cos and sin are computed", node)
        turns = from_rows(base(inputs[0]), cos, sin, node)
        parts = [replace(part, turns=turns) for part in parts[:2]] + parts[2:]
    keys, values = (_cache_of(node, inputs[3 + i], 1 + i, inputs[i]) for i in range(2))
    scale = node.attributes.get_float("scale", 0.0) or size**-0.5
    made = _made((parts[0], parts[1], parts[2]), scale, None, keys, values, size, node)
    window = node.attributes.get_int("local_window_size", -1)
    return replace(made, lengths=base(inputs[5]), window=window if window > 0 else None)


def _joined(value: ir.Value | None, heads: int, kv_heads: int) -> list[_Part]:
    """q, k and v as the rows of one linear."""
    whole = projection(value)
    size = whole.outputs // (heads + 2 * kv_heads)
    ends = [heads * size, (heads + kv_heads) * size, (heads + 2 * kv_heads) * size]
    return [_Part(whole.rows(a, b), None, None) for a, b in zip([0, *ends], ends, strict=False)]


def _made(
    parts: tuple[_Part, _Part, _Part],
    scale: float,
    mask: ir.Value | None,
    keys: Cache,
    values: Cache,
    size: int,
    node: ir.Node,
) -> Heads:
    q, k, v = parts
    if v.norm is not None or v.turns is not None:
        decline("values that are normalised or turned", v.linear.node)
    if (q.turns is None) != (k.turns is None) or (q.turns is not None and not q.turns.same(k.turns)):
        decline("queries and keys that are turned otherwise", node)
    if not (q.linear.input is k.linear.input is v.linear.input):
        decline("q, k and v do not read one value", q.linear.node)
    if not size or k.linear.outputs % size:
        decline(f"keys of {k.linear.outputs} channels in heads of {size}", node)
    return Heads(
        norm(q.linear.input), q.linear, k.linear, v.linear, scale, mask, keys, values, q.norm, k.norm, q.turns, size,
        k.linear.outputs // size, lengths=None, window=None,
    )  # fmt: skip


def _head_dim(present: ir.Value, turns: Rotation | None, node: ir.Node) -> int:
    """Channels of a head: twice the pairs that are turned, or the last axis of the cache or of the heads."""
    if turns is not None:
        return 2 * len(turns.frequencies)
    made = present.producer()
    value = made.inputs[0] if made is not None and made.op_type == "Concat" else present
    size = value.shape[3] if value is not None and value.shape is not None and len(value.shape) == 4 else None
    return size if isinstance(size, int) and size > 0 else decline("heads whose size is open", node)


def _softmax(value: ir.Value | None) -> ir.Node:
    """The Softmax, behind what puts zeros into rows that see nothing: Where(IsNaN(p), 0, p)."""
    node = maker(value, "Softmax", "Where")
    return maker(node.inputs[2], "Softmax") if node.op_type == "Where" else node


def _masked(value: ir.Value | None) -> tuple[ir.Value, ir.Value]:
    """(scores, mask) of scores + mask."""
    node = maker(value, "Add")
    pair = split(node, lambda one: _leads_to_product(one))
    if pair is None:
        decline("a Softmax over what is no product of queries and keys", node)
    return pair


def _leads_to_product(value: ir.Value) -> bool:
    node = through(value, ())[0].producer()
    return node is not None and node.op_type == "MatMul"


def _cache(value: ir.Value) -> Cache:
    """Past and new positions side by side, as an output of the graph; either may be turned at the graph's border."""
    node = maker(value, "Concat")
    axis = node.attributes.get_int("axis", 0) % 4
    if len(node.inputs) != 2 or axis not in _PLACES:
        decline("keys or values that are not the past ones and new ones along one of four axes", node)
    past, new = base(node.inputs[0]), base(node.inputs[1])
    places: tuple[int, ...] = _PLACES[axis]
    if (turned := past.producer()) is not None and turned.op_type == "Transpose":
        perm = _perm(turned)
        past, places = base(turned.inputs[0]), tuple(perm[at] for at in places)
    outputs = list(_outputs(node.outputs[0], _PLACES[axis]))
    if not past.is_graph_input() or not outputs:
        decline("a cache that is no input or is not put out", node)
    present = next((one for one, same in outputs if same == places), None)
    if present is None:
        decline("a cache whose axes lie otherwise as an input than as an output", node)
    b, h, p, d = places
    return Cache(past.name or "", present.name or "", new, (b, h, p, d))


def _outputs(value: ir.Value, places: tuple[int, ...]) -> Iterator[tuple[ir.Value, tuple[int, ...]]]:
    """(output of the graph, where its axes lie) for `value` as it is, and as Transposes put it out."""
    for one in _same_values(value):
        if one.is_graph_output():
            yield one, places
        for turned in [use.node for use in one.uses() if use.node.op_type == "Transpose"]:
            perm = _perm(turned)
            for made in _same_values(turned.outputs[0]):
                if made.is_graph_output():
                    yield made, tuple(perm.index(at) for at in places)


def _perm(node: ir.Node) -> list[int]:
    perm = list(node.attributes.get_ints("perm", ()) or range(4)[::-1])
    return perm if sorted(perm) == [0, 1, 2, 3] else decline("a cache of other than four axes", node)


def _cache_of(node: ir.Node, past: ir.Value | None, output: int, new: ir.Value | None) -> Cache:
    """Past and new positions that an attention op joins itself."""
    given = base(past)
    present = next((one for one in _same_values(node.outputs[output]) if one.is_graph_output()), None)
    if not given.is_graph_input() or present is None:
        decline("a cache that is no input or is not put out", node)
    return Cache(given.name or "", present.name or "", base(new) if new is not None else given)


def _same_values(value: ir.Value) -> Iterator[ir.Value]:
    """`value` and its casts and copies."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += [use.node.outputs[0] for use in one.uses() if use.node.op_type in ("Cast", "Identity")]


def _part(value: ir.Value | None) -> _Part:
    """Linear, norm and rotary embedding of q, k or v, [B,heads,S,D] or [B,S,heads*D]."""
    straight, factor = through(value, _SHAPED)
    if factor == 1.0 and is_projection(straight):
        return _Part(projection(straight), None, None)
    turned, factor = through(value, _SHAPED)
    turns = rotation(turned)
    at, again = through(turns.input if turns is not None else turned, _SHAPED)
    if factor * again != 1.0:
        decline("heads that are scaled before they are turned", at.producer())
    if is_projection(at):
        return _Part(projection(at), None, turns)
    found = norm(at)
    inner, _ = through(found.input, _SHAPED)
    return _Part(projection(inner), found, turns)
