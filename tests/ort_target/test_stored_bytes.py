"""What the ort target stores, in which types, and that every way of running it gives the module's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.ir.linears import as_quantized, linears
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.onnx_runtime import onnxruntime
from edgec.compiler.ir.weights import from_array
from edgec.compiler.oracle import in_rows, oracle
from edgec.compiler.oracle.compare import random_feeds, relative_error
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.quantize import Quantize
from edgec.targets.ort import compare as compare_module
from edgec.targets.ort import lower

V, H = 4096, 256
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL")


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("block", [16, 32, 128, "channel"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_an_embedding_takes_the_bytes_of_its_format(
    bits: int, block: int | str, symmetric: bool, one_weight, emit, tmp_path: Path
) -> None:
    """Integers and float16 scales, and the module's numbers whatever ONNX Runtime rewrites."""
    module = one_weight("embedding", V, H, weights=f"int{bits}", block=block, symmetric=symmetric)
    emission = emit(module)
    linear = next(linears(module))
    assert linear.quant is not None
    ideal = linear.quant.format.stored_in(bits).size(V, H) / 8
    data = (tmp_path / "m" / "ort.data").stat().st_size
    repeated = 1.0 if isinstance(block, int) else 1.06  # a scale per channel stands at every 128 columns
    assert ideal <= emission.stored["embed"].bytes <= data <= 1.02 * repeated * ideal + 3 * 4096
    ids, expected = np.arange(0, V, 37), linear.weight().numpy()[::37]
    for level in LEVELS:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(
            str(tmp_path / "m" / "cpu0.onnx"), options, providers=["CPUExecutionProvider"]
        )
        assert np.allclose(session.run(None, {"x": ids})[0], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("level", LEVELS)
def test_a_linear_reads_scales_of_float16(level: str, one_weight, emit, tmp_path: Path) -> None:
    module = one_weight("linear", 512, 512, weights="int4")
    emit(module)
    assert (tmp_path / "m" / "ort.data").stat().st_size <= 512 * 512 * 4.5 / 8 + 4096
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(
        str(tmp_path / "m" / "cpu0.onnx"), options, providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    expected = x @ next(linears(module)).weight().numpy().T
    assert relative_error(expected, session.run(None, {"x": x})[0]) < 1e-5


def test_scales_that_float16_does_not_hold_stay_float32(one_weight, emit, tmp_path: Path) -> None:
    """A format that no line of edgec's has rounded: 1/3 has no float16 form."""
    module = one_weight("linear", 64, 128, weights="int4")
    node = next(node for node in module.main.graph if node.op_type == "DequantizeLinear")
    quant = as_quantized(node)
    q, scale, *_ = node.inputs
    assert quant is not None
    assert q is not None
    assert scale is not None
    q.const_value = from_array("plain", quant.q.numpy())
    scale.const_value = from_array("odd", np.full(quant.scale.dims, 1 / 3, np.float32))
    emit(module)
    graph = ir.load(tmp_path / "m" / "cpu0.onnx").graph
    assert graph.initializers["linear.weight.scales"].dtype == ir.DataType.FLOAT
    assert "Cast" not in [node.op_type for node in graph]


@pytest.mark.parametrize("kind", ["embedding", "linear", "tied", "gemm"])
@pytest.mark.parametrize("floats", ["float16", "float32"])
def test_float_weights_in_the_type_that_is_asked_for(floats: str, kind: str, one_weight, emit, tmp_path: Path) -> None:
    module = _float_again(one_weight(kind, 300, 128, weights="int8"))
    emission = emit(module, floats=floats)
    for name in {linear.name for linear in linears(module)}:
        width = 2 if floats == "float16" else 4
        assert (emission.stored[name].dtype, emission.stored[name].bytes) == (floats, width * 300 * 128)
    assert (tmp_path / "m" / "ort.data").stat().st_size <= (2 if floats == "float16" else 4) * 300 * 128 + 4096
    feeds = random_feeds(module.main.graph)
    session = onnxruntime.InferenceSession(str(tmp_path / "m" / "cpu0.onnx"))
    made, expected = session.run(None, feeds)[0], next(iter(oracle.run(module.main, feeds).values()))
    error = relative_error(expected, made)
    assert error < (1e-3 if floats == "float16" else 1e-5)


def test_a_weight_beyond_float16_stays_float32_and_is_named(one_weight, emit) -> None:
    module = _float_again(one_weight("embedding", 64, 128, weights="int8"))
    table = module.main.graph.initializers["w"]
    table.const_value = from_array("w", np.full((64, 128), 7e4, np.float32))
    emission = emit(module, floats="float16")
    assert emission.stored["embed"].dtype == "float32"
    assert emission.notes == ["`embed` is stored as float32: float16 would overflow"]


def test_large_graphs_are_compared_linear_by_linear(draft: Module, emit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every linear with the emitted integers; one whose scales are negated is seen."""
    monkeypatch.setattr(compare_module, "_WHOLE", 0)
    Quantize(weights="int4", block=32).run(draft, Scope())
    compared: list[str] = []
    true = compare_module._Comparison._judge
    monkeypatch.setattr(
        compare_module._Comparison, "_judge", lambda self, what, a, b: (compared.append(what), true(self, what, a, b))
    )
    for format_ in ("matmulnbits", "dequantize"):
        compared.clear()
        emit(draft, format_)
        assert len(compared) == len(list(linears(draft)))
    held = lower._scales

    def negated(graph: ir.Graph, packed: lower.PackedWeight) -> list[ir.Value]:
        made = held(graph, packed)
        if packed.name != "layers.1.mlp.up_proj.weight":
            return made
        turned = ir.node("Neg", [made[0]], name="spoil")
        turned.outputs[0].name = "spoil.out"
        graph.insert_before(next(n for n in graph if n.name == "layers.1.mlp.up_proj"), turned)
        return [turned.outputs[0], *made[1:]]

    monkeypatch.setattr(lower, "_scales", negated)
    monkeypatch.setattr("edgec.targets.ort.emit.read_back", lambda *_: None)
    with pytest.raises(EdgecError, match=r"computes `layers\.1\.mlp\.up_proj` of `cpu0\.onnx` 2 "):
        emit(draft)


@pytest.mark.parametrize("quantised", [False, True])
def test_the_oracle_in_rows_is_the_oracle(quantised: bool, draft: Module) -> None:
    if quantised:
        Quantize(weights="int4", block=32).run(draft, Scope())
    feeds = random_feeds(draft.main.graph, draft.arch)
    expected, made = oracle.run(draft.main, feeds), in_rows.run(draft.main, feeds)
    assert expected.keys() == made.keys()
    assert max(relative_error(expected[name], made[name]) for name in expected) < 2e-5


def test_a_large_graph_goes_in_rows(draft: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_rows, "WHOLE", 1 << 16)
    monkeypatch.setattr(oracle, "open_session", lambda _model: pytest.fail("the model was opened whole"))
    assert "logits" in oracle.run(draft.main, random_feeds(draft.main.graph, draft.arch))


def _float_again(module: Module) -> Module:
    """The same ops on the float weight."""
    graph = module.main.graph
    for node in list(graph):
        quant = as_quantized(node) if node.op_type == "DequantizeLinear" else None
        if quant is None:
            continue
        linear = next(iter(linears(module)))
        held = from_array("w", linear.weight().numpy())
        value = ir.Value(name="w", type=ir.TensorType(held.dtype), shape=ir.Shape(held.dims), const_value=held)
        graph.register_initializer(value)
        node.outputs[0].replace_all_uses_with(value)
        graph.remove(node, safe=True)
    return module
