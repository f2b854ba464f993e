"""`raise_attention` and `raise_rotary`: one op for the primitive ops of exporters, and why where it is another."""

from __future__ import annotations

import pytest
from edgec.compiler.pipeline.pass_check import run_and_check
from edgec.passes.raise_attention import RaiseAttention
from edgec.passes.raise_rotary import RaiseRotary

HEAD = '<ir_version: 10, opset_import: ["" : 24]> g '
INPUTS = "float[2,3,5,4] q, float[2,3,6,4] k, float[2,6,3,4] heads_last, float[2,3,6,7] v"
MASKS = "float[2,1,5,6] m, float[2,1,1,6] padding, float[6] columns"
GRAPH = HEAD + "({inputs}{also}) => (float[2,3,5,7] y{out}) <float scale = {{0.5}}> {{ {body} }}"
TURNED = "t = Transpose<perm = [0,1,3,2]>(k) "
BEHIND = TURNED + "d = MatMul(q, t) s = Mul(d, scale) {} p = Softmax(s) y = MatMul(p, v)"
MASKED = BEHIND.format("").replace("Softmax(s)", "Softmax(a)").replace(" p =", " a = Add(s, {}) p =")


def attention(body: str, also: str = "", out: str = "") -> str:
    return GRAPH.format(inputs=f"{INPUTS}, {MASKS}", also=also, out=out, body=body)


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        (BEHIND.format(""), ["Attention"]),
        (BEHIND.format("").replace("Mul(d", "Div(d"), ["Attention"]),
        (MASKED.format("m"), ["Attention"]),
        (MASKED.format("padding"), ["Expand", "Attention"]),
        (
            TURNED + "a = Mul(q, scale) b = Mul(t, scale) d = MatMul(a, b) p = Softmax(d) y = MatMul(p, v)",
            ["Attention"],
        ),
        (BEHIND.format("").replace("[0,1,3,2]>(k)", "[0,2,3,1]>(heads_last)"), ["Transpose", "Attention"]),
    ],
)
def test_attention_is_one_op(body: str, ops: list[str]) -> None:
    result = run_and_check(RaiseAttention(), attention(body))
    assert (result.ops, result.changes, result.skips) == (ops, 1, ())


CHOICE = BEHIND.format("c = Where(allowed, s, scale)").replace("Softmax(s)", "Softmax(c)")


@pytest.mark.parametrize(
    ("body", "also", "out", "why"),
    [
        (BEHIND.format("").replace("Softmax(s)", "Softmax<axis = 2>(s)"), "", "", "not over the keys"),
        (BEHIND.format(""), "", ", float[2,3,5,6] p", "has other readers"),
        (BEHIND.format(""), "", ", float[2,3,5,6] d", "has other readers"),
        (BEHIND.format("").replace("MatMul(q, t)", "MatMul(q, u)"), ", float[2,3,4,6] u", "", "no Transpose turns"),
        (BEHIND.format("").replace("(k)", "(one)"), ", float[2,1,6,4] one", "", "fewer batches or heads"),
        (MASKED.format("columns"), "", "", "a column for each key"),
        (CHOICE, ", bool[2,3,5,6] allowed", "", "masked by a choice"),
        (TURNED + "d = MatMul(q, t) p = Softmax(d) g = Relu(p) y = MatMul(g, v)", "", "", "read by a Relu"),
    ],
)
def test_what_is_another_attention_says_why(body: str, also: str, out: str, why: str) -> None:
    result = run_and_check(RaiseAttention(), attention(body, also, out))
    assert result.changes == 0
    assert why in result.skips[0].reason


def test_masks_of_open_sizes_are_not_expanded() -> None:
    body = MASKED.format("o")
    text = attention(body, ", float[2,1,1,6] o").replace("float[2,3,5,4] q", "float[2,3,S,4] q")
    result = run_and_check(RaiseAttention(), text.replace("float[2,3,5,7] y", "float[2,3,S,7] y"))
    assert (result.changes, "of open sizes" in result.skips[0].reason) == (0, True)


def test_a_softmax_over_classes_is_nothing_to_tell() -> None:
    result = run_and_check(RaiseAttention(), HEAD + "(float[2,4] x) => (float[2,4] y) { y = Softmax(x) }")
    assert (result.changes, result.skips) == (0, ())


ANGLES = "e = Concat<axis = -1>(f, f) u = Unsqueeze(e, one) cos = Cos(u) sin = Sin(u) "
SLICES = "a = Slice(x, zero, two, three) b = Slice(x, two, {}, three) "
SPLIT = "a, b = Split<axis = -1, num_outputs = 2>(x) "
TURN = "n = Neg(b) r = Concat<axis = -1>(n, a) c = Mul(x, cos) s = Mul(r, sin) y = Add(c, s)"
CONSTANTS = "int64[1] one = {1}, int64[1] zero = {0}, int64[1] two = {2}, int64[1] three = {3}, int64[1] four = {4}"
CONSTANTS += ", int64[1] all = {9223372036854775807}"


def rotary(body: str, out: str = "", x: str = "float[1,3,5,4] x") -> str:
    angles = "float[1,5,2] f, float[1,5,2] g, float[1,1,5,4] loose"
    return HEAD + f"({x}, {angles}) => (float[1,3,5,4] y{out}) <{CONSTANTS}> {{ {body} }}"


@pytest.mark.parametrize("halves", [SLICES.format("all"), SLICES.format("four"), SPLIT])
@pytest.mark.parametrize("order", [TURN, TURN.replace("Mul(r, sin)", "Mul(sin, r)").replace("Add(c, s)", "Add(s, c)")])
def test_a_rotary_embedding_is_one_op(halves: str, order: str) -> None:
    result = run_and_check(RaiseRotary(), rotary(ANGLES + halves + order))
    assert result.ops.count("RotaryEmbedding") == result.changes == 1
    assert not {"Neg", "Mul", "Add", "Split"} & set(result.ops)


def test_queries_and_keys_share_the_halves_of_cos_and_sin() -> None:
    second = "a2, b2 = Split<axis = -1, num_outputs = 2>(y) n2 = Neg(b2) r2 = Concat<axis = -1>(n2, a2)"
    second += " c2 = Mul(y, cos) s2 = Mul(r2, sin) z = Add(c2, s2)"
    result = run_and_check(RaiseRotary(), rotary(f"{ANGLES}{SPLIT}{TURN} {second}", ", float[1,3,5,4] z"))
    assert result.changes == 2
    assert result.ops.count("Slice") == result.ops.count("Squeeze") == 2


@pytest.mark.parametrize(
    ("body", "out", "why"),
    [
        (
            ANGLES + SPLIT + TURN.replace("Mul(x, cos)", "Mul(c0, cos)").replace("c =", "c0 = Neg(x) c ="),
            "",
            "of another",
        ),
        (ANGLES + SPLIT + TURN.replace("Neg(b)", "Neg(a)").replace("(n, a)", "(n, b)"), "", "minus the second half"),
        (ANGLES + SPLIT + TURN, ", float[1,3,5,4] r", "has other readers"),
        (ANGLES.replace("(f, f)", "(f, g)") + SPLIT + TURN, "", "not known to be the same"),
        (ANGLES + SPLIT + TURN.replace("x, cos", "x, loose"), "", "not known to be the same"),
    ],
)
def test_what_turns_otherwise_says_why(body: str, out: str, why: str) -> None:
    result = run_and_check(RaiseRotary(), rotary(body, out))
    assert result.changes == 0
    assert why in result.skips[0].reason


def test_angles_of_one_batch_for_several_are_left_alone() -> None:
    text = rotary(ANGLES + SPLIT + TURN, x="float[2,3,5,4] x").replace("(float[1,3,5,4] y", "(float[2,3,5,4] y")
    result = run_and_check(RaiseRotary(), text)
    assert (result.changes, "other batches" in result.skips[0].reason) == (0, True)


def test_a_sum_of_products_is_nothing_to_tell() -> None:
    body = "c = Mul(x, loose) s = Mul(loose, x) y = Add(c, s)"
    result = run_and_check(RaiseRotary(), rotary(body))
    assert (result.changes, result.skips) == (0, ())
