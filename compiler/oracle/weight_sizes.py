"""Sizes that open dimensions of inputs have to have since an op reads them as its weights.

    MatMul(x[2,300], w[K,M])            K = 300
    Conv(x[1,C,H,W], w[O,I,KH,KW])      I = C / group, KH and KW those of `kernel_shape`
    LSTM <hidden_size = 3> (x, w, r)    w[D, 4*3, I], r[D, 4*3, 3]

A size that hangs on another open one is the same open dimension from here on; numbers are tried for what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import onnx_ir as ir

Dim = int | str
Pair = tuple[Dim | None, Dim | None]
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_OF_CHANNELS = ("BatchNormalization", "InstanceNormalization")


def fixed_sizes(graph: ir.Graph) -> dict[str, int]:
    """Open dimension of an input (a name, or `input.axis`) -> the size it has to have, as far as ops say so."""
    same: dict[Dim, Dim] = {}

    def root(dim: Dim) -> Dim:
        while dim in same:
            dim = same[dim]
        return dim

    for node in graph:
        for one, other in _pairs(node):
            if one is None or other is None:
                continue
            a, b = root(one), root(other)
            if a != b and not (isinstance(a, int) and isinstance(b, int)):
                a, b = (b, a) if isinstance(a, int) else (a, b)
                same[a] = b
    return {dim: size for dim in same if isinstance(dim, str) and isinstance(size := root(dim), int) and size > 0}


def _pairs(node: ir.Node) -> Iterator[Pair]:
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    dims = [None if value is None else _dims(value) for value in node.inputs]
    if rule is not None and len(dims) > 1 and dims[0] is not None and dims[1] is not None:
        yield from rule(node, dims[0], dims[1], dims[2:])


def _dims(value: ir.Value) -> list[Dim | None] | None:
    if value.shape is None:
        return None
    named = value.is_graph_input()
    return [
        d if isinstance(d, int) else d.value or (f"{value.name}.{axis}" if named else None)
        for axis, d in enumerate(value.shape)
    ]


Dims = Sequence[Dim | None]
Others = Sequence[Dims | None]


def _conv(node: ir.Node, x: Dims, w: Dims, others: Others) -> Iterator[Pair]:
    if len(x) < 2 or len(w) != len(x):
        return
    group = node.attributes.get_int("group", 1)
    channels, taken = x[1], w[1]
    if group == 1:
        yield channels, taken
    elif isinstance(channels, int):
        yield channels // group, taken
    elif isinstance(taken, int):
        yield channels, taken * group
    yield from zip(w[2:], node.attributes.get_ints("kernel_shape", ()), strict=False)
    yield from _vectors(others, w[0])


def _turned(node: ir.Node, x: Dims, w: Dims, others: Others) -> Iterator[Pair]:
    if len(x) < 2 or len(w) != len(x):
        return
    yield x[1], w[0]
    yield from zip(w[2:], node.attributes.get_ints("kernel_shape", ()), strict=False)
    made = w[1] if node.attributes.get_int("group", 1) == 1 else None
    yield from _vectors(others, made)


def _matmul(_node: ir.Node, x: Dims, w: Dims, _others: Others) -> Iterator[Pair]:
    if x and w:
        yield x[-1], w[-2] if len(w) > 1 else w[0]
    for one, other in zip(reversed(x[:-2]), reversed(w[:-2]), strict=False):
        yield from _broadcast(one, other)


def _gemm(node: ir.Node, x: Dims, w: Dims, _others: Others) -> Iterator[Pair]:
    if len(x) == len(w) == 2:
        yield x[0 if node.attributes.get_int("transA", 0) else 1], w[1 if node.attributes.get_int("transB", 0) else 0]


def _recurrent(node: ir.Node, x: Dims, w: Dims, others: Others) -> Iterator[Pair]:
    hidden, gates = node.attributes.get_int("hidden_size", 0), _GATES[node.op_type]
    if len(x) != 3 or len(w) != 3 or not hidden:
        return
    both = 2 if node.attributes.get_string("direction", "forward") == "bidirectional" else 1
    batch = x[0 if node.attributes.get_int("layout", 0) else 1]
    yield x[2], w[2]
    yield from zip(w, (both, gates * hidden), strict=False)
    states = (batch, both, hidden) if node.attributes.get_int("layout", 0) else (both, batch, hidden)
    rest: list[Dims] = [(both, gates * hidden, hidden), (both, 2 * gates * hidden), (batch,), states, states]
    for have, wanted in zip(others, [*rest, (both, 3 * hidden)], strict=False):
        yield from zip(have or (), wanted, strict=False)


def _channels(_node: ir.Node, x: Dims, w: Dims, others: Others) -> Iterator[Pair]:
    if len(x) > 1:
        yield from _vectors([w, *others], x[1])


def _elementwise(_node: ir.Node, x: Dims, w: Dims, _others: Others) -> Iterator[Pair]:
    for one, other in zip(reversed(x), reversed(w), strict=False):
        yield from _broadcast(one, other)


def _broadcast(one: Dim | None, other: Dim | None) -> Iterator[Pair]:
    """Sizes that are the same or 1 are taken to be the same; with 1 the other may be any."""
    if one != 1 and other != 1:
        yield one, other


def _vectors(others: Others, size: Dim | None) -> Iterator[Pair]:
    yield from ((one[0], size) for one in others if one is not None and len(one) == 1)


_RULES: dict[str, Callable[[ir.Node, Dims, Dims, Others], Iterator[Pair]]] = {
    "Conv": _conv,
    "ConvTranspose": _turned,
    "MatMul": _matmul,
    "Gemm": _gemm,
    **dict.fromkeys(_GATES, _recurrent),
    **dict.fromkeys(_OF_CHANNELS, _channels),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "PRelu"), _elementwise),
}
