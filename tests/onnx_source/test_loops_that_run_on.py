"""Numbers that a graph is tried with must not keep its loops running, nor make gigabytes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from edgec.compiler.oracle import probes
from edgec.compiler.oracle.compare import LARGE, WIDE, ZEROS, random_feeds
from edgec.compiler.oracle.probes import Probes

HEAD = '<ir_version: 10, opset_import: ["" : 24]> g '
TIMES = HEAD + (
    """(float[2] x, int64 k, int64[2] other) => (float[2] y, int64[2] z) {
    z = Neg (other)
    one = Constant <value_int = 1> ()
    more = Add (k, one)
    y = Loop (more, , x) <body = b (int64 i, bool c, float[2] a) => (bool go, float[2] b) {
        b = Neg (a)
        go = Identity (c)
    }>
}"""
)
UNTIL = HEAD + (
    """(float[2] x) => (float[2] y) <bool go = {1}> {
    y = Loop (, go, x) <body = b (int64 i, bool c, float[2] a) => (bool again, float[2] b) {
        b = Mul (a, a)
        s = ReduceSum <keepdims = 0> (b)
        zero = Constant <value_float = 0.0> ()
        again = Equal (s, zero)
    }>
}"""
)


def graph(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(text))


@pytest.mark.parametrize(
    "body",
    [
        "y = Range (zero, k, one)",
        "c = Cast <to = 7> (k) s = Unsqueeze (c, axis) y = ConstantOfShape (s)",
        "s = Unsqueeze (k, axis) f = Constant <value_float = 1.0> () y = Expand (f, s)",
    ],
)
def test_what_becomes_a_size_stays_small(body: str) -> None:
    head = (
        "(int64 k, int64[3] other) => (int64[n] y, int64[3] z) <int64 zero = {0}, int64 one = {1}, int64[1] axis = {0}>"
    )
    feeds = random_feeds(graph(HEAD + f"{head} {{ z = Neg (other) {body} }}").graph, kind=WIDE)
    assert 0 <= feeds["k"] < 3
    assert np.abs(feeds["other"]).max() > 1 << 20


def test_how_often_a_loop_runs_stays_small() -> None:
    model = graph(TIMES)
    feeds = random_feeds(model.graph, kind=WIDE)
    assert 0 <= feeds["k"] < 3
    assert np.abs(feeds["other"]).max() > 1 << 20
    assert Probes(model).trial({}, kind=WIDE) is not None


def test_a_loop_that_runs_on_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_LEAST_PATIENCE", 0.5)
    tried = Probes(graph(UNTIL))
    assert tried.trial({}, 1, LARGE) is not None
    assert tried.trial({}, 1, ZEROS) is None
