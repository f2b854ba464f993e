"""y = (x W) * s with s per output becomes one MatMul; whatever else the Mul is, it stays and the reason is said."""

from __future__ import annotations

import pytest
from edgec.api import CheckFailed, run_and_check
from edgec_fold_scale import FoldOutputScale

GRAPH = """
<ir_version: 10, opset_import: ["" : 21]>
scaled (float[B,4] x) => (float[B,3] y{also})
<float[4,3] w = {{0.1, -0.2, 0.3, 0.4, 0.5, -0.6, 0.7, 0.8, 0.9, -1.0, 1.1, 1.2}}, float[{shape}] s = {{{values}}}>
{{ h = MatMul(x, w)
   y = Mul(h, s) {more} }}
"""


def graph(shape: str = "3", values: str = "2.0, -0.5, 4.0", also: str = "", more: str = "") -> str:
    return GRAPH.format(shape=shape, values=values, also=also, more=more)


@pytest.mark.parametrize(("shape", "values"), [("3", "2.0, -0.5, 4.0"), ("1", "3.0"), ("1,3", "1.0, 2.0, 3.0")])
def test_folds(shape: str, values: str) -> None:
    result = run_and_check(FoldOutputScale(), graph(shape, values))
    assert (result.ops, result.changes) == (["MatMul"], 1)


@pytest.mark.parametrize(
    ("given", "largest", "why"),
    [
        (
            graph("2,1", "2.0, 4.0").replace("float[B,4] x", "float[2,4] x").replace("float[B,3] y", "float[2,3] y"),
            1e4,
            "not one constant value per output",
        ),  # one value per row of x: only the axis tells
        (graph(also=", float[B,3] z", more="z = Neg(h)"), 1e4, "other readers"),
        (graph(also=", float[B,3] z", more="z = MatMul(x, w)"), 1e4, "is shared"),
        (graph(), 3.0, "a scale of 4 is above 3"),
    ],
)
def test_leaves_alone_and_says_why(given: str, largest: float, why: str) -> None:
    result = run_and_check(FoldOutputScale(largest=largest), given)
    assert (result.ops[:2], result.changes) == (["MatMul", "Mul"], 0)
    assert why in result.skips[0].reason


def test_the_check_sees_a_wrong_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgec_fold_scale import fold

    true = fold._scaled
    monkeypatch.setattr(fold, "_scaled", lambda weight, scale, rows: true(weight, scale * 1.001, rows))
    with pytest.raises(CheckFailed, match="moved output `y`"):
        run_and_check(FoldOutputScale(), graph())
