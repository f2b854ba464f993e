"""quantize on graphs: every kind of weight, ties, later lines, refusals with their reasons."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import EdgecError, Span
from edgec.compiler.ir.annotations import FLOAT_WEIGHT
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.weights import as_weight, cast
from edgec.compiler.oracle.compare import errors
from edgec.compiler.pipeline.pass_check import CheckFailed, from_text, run_and_check
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.plan.parameters import parameters
from edgec.passes.quantize import Quantize

BODY = np.random.default_rng(5).standard_normal(1 << 14).astype(np.float32)


def numbers(count: int, start: int = 0) -> str:
    return ", ".join(f"{value:.4f}" for value in BODY[start : start + count])


HEAD = '<ir_version: 10, opset_import: ["" : 21]>'
MATMUL = f"{HEAD} m (float[B,64] x) => (float[B,24] y) <float[64,24] w = {{{numbers(1536)}}}> {{ y = MatMul(x, w) }}"
GEMM = f"""{HEAD} m (float[B,32] x) => (float[B,12] y)
<float[{{shape}}] w = {{{{{numbers(384)}}}}}, float[12] b = {{{{{numbers(12)}}}}}>
{{{{ y = Gemm<transB={{trans}}>(x, w, b) }}}}"""
CONV = f"""{HEAD} m (float[1,4,6,6] x) => (float[1,8,4,4] y)
<float[8,4,3,3] w = {{{numbers(288)}}}, float[8] b = {{{numbers(8)}}}> {{ y = Conv(x, w, b) }}"""
TIED = f"""{HEAD} m (int64[B,S] ids) => (float[B,S,40] y)
<float[40,32] table = {{{numbers(1280)}}}>
{{ x = Gather(table, ids)
   t = Transpose<perm = [1, 0]>(table)
   y = MatMul(x, t) }}"""
EMBED, HEAD_OP = "Gather_0", "MatMul_0"  # the names unnamed nodes get

CASES = [
    (MATMUL, ["DequantizeLinear", "Transpose", "MatMul"]),
    (GEMM.format(shape="32,12", trans=0), ["DequantizeLinear", "Gemm"]),
    (GEMM.format(shape="12,32", trans=1), ["DequantizeLinear", "Gemm"]),
    (TIED, ["DequantizeLinear", "Gather", "Transpose", "MatMul"]),
]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("weights", "block"), [("int4", 16), ("int4", 32), ("int4", "channel"), ("int8", 32)])
@pytest.mark.parametrize(("text", "ops"), CASES)
def test_linears_and_embeddings(text: str, ops: list[str], weights: str, block: int | str, symmetric: bool) -> None:
    result = run_and_check(Quantize(weights=weights, block=block, symmetric=symmetric), text)
    assert sorted(result.ops) == sorted(ops)
    assert result.changes == len([op for op in ops if op in ("MatMul", "Gemm", "Gather")])
    quant = next(linears(result.module)).quant
    assert quant is not None
    assert (quant.symmetric, quant.bits, quant.block) == (
        symmetric,
        int(weights[3:]),
        None if block == "channel" else block,
    )


@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_convolutions_per_channel(weights: str) -> None:
    result = run_and_check(Quantize(weights=weights, block="channel"), CONV)
    assert (result.ops, result.changes) == (["DequantizeLinear", "Conv"], 1)


def test_convolutions_in_blocks_are_left_alone() -> None:
    result = run_and_check(Quantize(weights="int4"), CONV)
    assert (result.ops, result.changes) == (["Conv"], 0)
    assert "per channel only" in result.skips[0].reason


def test_float16_weights_stay_float16() -> None:
    module = from_text(MATMUL)
    for value in (*module.main.graph.inputs, *module.main.graph.outputs):
        value.dtype = ir.DataType.FLOAT16
    weight = module.main.graph.initializers["w"]
    weight.const_value, weight.dtype = cast(as_weight(weight.const_value), ir.DataType.FLOAT16), ir.DataType.FLOAT16
    result = run_and_check(Quantize(weights="int8", block="channel"), module)
    quant = next(linears(result.module)).quant
    assert quant is not None
    assert quant.scale.dtype.name == "FLOAT16"


def test_other_floats_are_left_alone() -> None:
    result = run_and_check(Quantize(weights="int8", block="channel"), MATMUL.replace("float[", "double["))
    assert result.skips[0].reason == "its weight is double, not float32 or float16"


def test_what_came_quantised_is_left_alone() -> None:
    text = f"""{HEAD} m (float[B,32] x) => (float[B,4] y)
    <int8[32,4] q = {{{", ".join(str(i % 17 - 8) for i in range(128))}}}, float s = {{0.5}}>
    {{ w = DequantizeLinear(q, s)  y = MatMul(x, w) }}"""
    result = run_and_check(Quantize(weights="int8", block="channel"), text)
    assert (result.changes, result.skips[0].reason) == (0, "its weight is quantised in the source model already")


def test_a_block_that_does_not_divide() -> None:
    text = (
        MATMUL.replace("float[B,64]", "float[B,48]")
        .replace("float[64,24] w", "float[48,32] w")
        .replace("24] y", "32] y")
    )
    scope = Scope(origin=Span("plan.edge", 4, 3, 4, 20))
    with pytest.raises(EdgecError) as raised:
        Quantize(weights="int4", block=32).run(from_text(text), scope)
    assert str(raised.value).splitlines() == [
        "error[E0413]: the weight of `MatMul_0` has 48 inputs, which a block of 32 does not divide",
        " --> plan.edge:4:3",
        "  = blocks of 32",
        '  = help: use `block = 16` or `channel`, or leave such weights as they are with `except ["MatMul_0"]`',
    ]
    assert run_and_check(Quantize(weights="int4", block=16), text).changes == 1


def test_the_error_is_seen_by_the_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale that is off by a tenth, or integers shifted by one, do not pass."""
    from edgec.passes.quantization import round_to_nearest as quantize_rtn

    true = quantize_rtn.quantise

    def shifted(w: np.ndarray, format_: quantize_rtn.WeightFormat):
        q, scale, zero = true(w, format_)
        return np.minimum(q + 1, 7), scale, zero

    monkeypatch.setattr(quantize_rtn, "quantise", shifted)
    with pytest.raises(CheckFailed, match="moved output"):
        run_and_check(Quantize(weights="int8", block="channel"), MATMUL)


class TestTies:
    def test_both_selected_stay_tied(self) -> None:
        result = run_and_check(Quantize(weights="int4"), TIED)
        embed, head = linears(result.module)
        assert embed.initializer is head.initializer
        assert (result.notes, len(list(result.module.main.graph.initializers))) == ((), 2)

    @pytest.mark.parametrize(("on", "other"), [(EMBED, HEAD_OP), (HEAD_OP, EMBED)])
    def test_one_selected_unties_and_says_so(self, on: str, other: str) -> None:
        result = run_and_check(Quantize(weights="int4"), TIED, on=[on])
        embed, head = linears(result.module)
        assert embed.initializer is not head.initializer
        assert len(result.notes) == 1
        assert "no longer shares its weight" in result.notes[0]
        # int4 in blocks of 32 beside the float table: 640 bytes of integers and 160 of scales
        assert "800 bytes more" in result.notes[0]
        assert on in result.notes[0]
        assert other in result.notes[0]

    def test_the_same_format_ties_again(self) -> None:
        module = from_text(TIED)
        assert Quantize(weights="int4").run(module, Scope(on=(HEAD_OP,))) == 1
        assert Quantize(weights="int8").run(module, Scope(on=(EMBED,))) == 1
        assert len({linear.initializer.name for linear in linears(module)}) == 2
        assert Quantize(weights="int4").run(module, Scope(on=(EMBED,))) == 1
        assert len({linear.initializer.name for linear in linears(module)}) == 1
        module.level = Level.COMPRESSED
        assert errors(from_text(TIED), module)["y"] < 0.3  # still in topological order, and the right numbers


class TestLaterLines:
    def test_the_later_line_wins_from_the_float_weight(self) -> None:
        """int4, then int8: the result is int8 of the float weight, bit for bit."""
        twice, once = from_text(MATMUL), from_text(MATMUL)
        first, second = (Scope(origin=Span("plan.edge", line, 3, line, 9)) for line in (2, 3))
        Quantize(weights="int4").run(twice, first)
        Quantize(weights="int8").run(twice, second)
        Quantize(weights="int8").run(once, second)
        a, b = next(linears(twice)), next(linears(once))
        assert a.quant is not None
        assert b.quant is not None
        assert a.quant.q.tobytes() == b.quant.q.tobytes()
        assert a.quant.scale.tobytes() == b.quant.scale.tobytes()
        assert twice.decisions == {"MatMul_0": "plan.edge:3:3"}
        assert list(twice.main.graph.initializers) == ["MatMul_0.weight.q", "MatMul_0.weight.scale"]

    def test_a_clone_keeps_the_link_to_the_float_weight(self, draft: Module) -> None:
        Quantize(weights="int4").run(draft, Scope())
        copy = draft.clone()
        Quantize(weights="int8", block="channel").run(copy, Scope(on=("lm_head",)))
        quants = {linear.name: linear.quant for linear in linears(copy)}
        assert quants["lm_head"] is not None
        assert FLOAT_WEIGHT.get(quants["lm_head"].q).name == "embed_tokens.weight"
        assert {linear.quant.format.describe() for linear in linears(draft) if linear.quant} == {
            "int4 block 32 symmetric"
        }


def test_decoder(draft: Module) -> None:
    result = run_and_check(Quantize(weights="int4"), draft, except_=["lm_head", "embed_tokens"])
    assert result.changes == 14
    assert result.module.main.graph.initializers["embed_tokens.weight"] is not None
    float_left = [name for name in result.module.main.graph.initializers if name.endswith("proj.weight")]
    assert float_left == []


OFFERED = {parameter.name: parameter.choices for parameter in parameters(Quantize)}


@pytest.mark.parametrize("block", [b for b in OFFERED["block"] if b != 128])  # 128 does not divide 64 inputs
@pytest.mark.parametrize("weights", [w for w in OFFERED["weights"] if w not in ("auto", "stored")])
def test_what_is_offered_works(weights: str, block: int | str) -> None:
    assert run_and_check(Quantize(weights=weights, block=block), MATMUL).changes == 1


def test_what_does_not_work_is_not_offered() -> None:
    assert OFFERED["activations"] == ("fp16", "uint16", "uint8")
    assert set(OFFERED["block"]) == {16, 32, 64, 128, "channel"}
