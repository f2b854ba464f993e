"""`raise_norms` and `raise_activations`: one op for the primitive ops of exporters, and why where it is none."""

from __future__ import annotations

import pytest
from edgec.compiler.pipeline.pass_check import run_and_check
from edgec.passes.raise_activations import RaiseActivations
from edgec.passes.raise_norms import RaiseNorms

HEAD = '<ir_version: 10, opset_import: ["" : 24]> g '
GRAPH = "(float[2,3,4] x{also}) => (float[2,3,4] y{out}) <{constants}> {{ {body} }}"
RMS = "p = Pow(x, two) m = ReduceMean(p, last) e = Add(m, eps) r = Sqrt(e) {quotient} y = Mul(n, gain)"
LAYER = (
    "a = ReduceMean(x, last) d = Sub(x, a) p = Pow(d, two) m = ReduceMean(p, last) e = Add(m, eps) r = Sqrt(e)"
    " n = Div(d, r) s = Mul(n, gain) y = Add(s, bias)"
)
CONSTANTS = (
    "float[4] gain = {1, 2, 3, 4}, float[4] bias = {4, 3, 2, 1}, float two = {2}, float one = {1}, float half = {0.5},"
    " float eps = {1e-5}, int64[1] last = {-1}, int64[1] first = {1}, float root = {1.4142135},"
    " float cubic = {0.044715}, float three = {3}, float share = {0.7978846}"
)


def graph(body: str, also: str = "", out: str = "") -> str:
    return HEAD + GRAPH.format(also=also, out=out, constants=CONSTANTS, body=body)


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        (RMS.format(quotient="n = Div(x, r)"), ["RMSNormalization"]),
        (RMS.format(quotient="i = Div(one, r) n = Mul(x, i)"), ["RMSNormalization"]),
        (RMS.format(quotient="i = Reciprocal(r) n = Mul(i, x)"), ["RMSNormalization"]),
        (LAYER, ["LayerNormalization"]),
    ],
)
def test_a_norm_is_one_op(body: str, ops: list[str]) -> None:
    result = run_and_check(RaiseNorms(), graph(body))
    assert (result.ops, result.changes, result.skips) == (ops, 1, ())


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (RMS.format(quotient="n = Div(x, r)").replace("last", "first"), "not over the last axis"),
        ("p = Pow(x, two) m = ReduceMean(p, last) e = Add(m, eps) r = Sqrt(e) y = Div(x, r)", "no product with a"),
        (RMS.format(quotient="n = Div(x, r)").replace("Div(x, r)", "Div(p, r)"), "divides by another value's mean"),
    ],
)
def test_what_is_no_norm_says_why(body: str, why: str) -> None:
    result = run_and_check(RaiseNorms(), graph(body))
    assert result.changes == 0
    assert why in result.skips[0].reason


ERF = "d = Div(x, root) e = Erf(d) a = Add(e, one) p = Mul(x, a) y = Mul(p, half)"
TANH = (
    "c = Pow(x, three) k = Mul(c, cubic) s = Add(x, k) t = Mul(s, share) h = Tanh(t) a = Add(one, h) b = Mul(x, half)"
    " y = Mul(b, a)"
)


@pytest.mark.parametrize(
    ("body", "op"),
    [
        (ERF, "Gelu"),
        (TANH, "Gelu"),
        ("s = Sigmoid(x) y = Mul(x, s)", "Swish"),
        ("s = Sigmoid(x) y = Mul(s, x)", "Swish"),
    ],
)
def test_an_activation_is_one_op(body: str, op: str) -> None:
    result = run_and_check(RaiseActivations(), graph(body))
    assert (result.ops, result.changes, result.skips) == ([op], 1, ())


@pytest.mark.parametrize(
    ("body", "also", "out", "why"),
    [
        (ERF.replace("root", "two"), "", "", "is not GELU"),
        (TANH.replace("cubic", "half"), "", "", "is not GELU"),
        ("s = Sigmoid(x) y = Mul(s, z)", ", float[2,3,4] z", "", "is not SiLU"),
        (ERF, "", ", float[2,3,4] a", "has other readers"),
    ],
)
def test_what_is_another_function_says_why(body: str, also: str, out: str, why: str) -> None:
    result = run_and_check(RaiseActivations(), graph(body, also, out))
    assert result.changes == 0
    assert why in result.skips[0].reason


def test_a_sigmoid_alone_is_nothing_to_tell() -> None:
    result = run_and_check(RaiseActivations(), graph("y = Sigmoid(x)"))
    assert (result.changes, result.skips) == (0, ())
