"""Integer activations: ranges, the pairs in the graph, what they cost, and that a later line measures them anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from edgec.compiler.calibration.calibration_text import Calibration
from edgec.compiler.calibration.windows import windows
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.activation_encodings import Encoding, pairs, root, strip
from edgec.compiler.ir.annotations import SCORES
from edgec.compiler.ir.fold_into_weights import set_weight
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.weights import from_array
from edgec.compiler.oracle.oracle import perplexity, run
from edgec.compiler.oracle.text_perplexity import token_ids
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.passes.quantization import activation_ranges
from edgec.passes.quantization.activation_ranges import ObservedValues, measure_ranges
from edgec.passes.quantization.kv_cache import KvCache
from edgec.passes.quantize import Quantize
from edgec.passes.rotate import Rotate
from hypothesis import given
from hypothesis import strategies as st

from .conftest import LINEARS, SPAN

ROOT = Path(__file__).resolve().parents[2]
HELDOUT = ROOT / "examples" / "text" / "heldout.txt"
COMPUTES = ("MatMul", "Add", "Mul", "Swish", "RMSNormalization", "Gather", "RotaryEmbedding", "Attention")
ENDS = st.floats(-1e4, 1e4, width=32)


@given(ENDS, ENDS, st.sampled_from(["uint8", "uint16", "int16"]))
def test_an_encoding_spans_its_range_and_meets_zero(a: float, b: float, dtype: str) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    made = Encoding.over(low, high, dtype)
    assert made.low <= low + 0.51 * made.scale
    assert made.high >= high - 0.51 * made.scale
    assert made.ends[0] <= made.zero_point <= made.ends[1]


@given(st.integers(0, 255), st.integers(0, 255), st.floats(2.0**-20, 1024, width=32))
def test_widening_is_exact(q: int, zero: int, scale: float) -> None:
    narrow = Encoding("uint8", scale, zero)
    wide = narrow.widened()
    assert (257 * q - wide.zero_point) == 257 * (q - zero)
    assert wide.scale * 257 == pytest.approx(narrow.scale, rel=1e-7)


def test_ranges_by_method() -> None:
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    x[0] = 50.0
    seen = ObservedValues()
    seen.add(x)
    seen.count(x)
    assert seen.range("minmax", 8) == (pytest.approx(float(x.min())), 50.0)
    assert seen.range("auto", 16)[1] == pytest.approx(55.0)
    assert seen.range("percentile", 8)[1] < 5
    low, high = seen.range("mse", 8)

    def error(a: float, b: float) -> float:
        e = Encoding.over(a, b, "uint8")
        q = torch.clamp(torch.round(x / e.scale) + e.zero_point, 0, 255)
        return float(((q - e.zero_point) * e.scale - x).pow(2).sum())

    assert error(low, high) < error(float(x.min()), 50.0)


@pytest.mark.parametrize("channels", [None, "outliers"])
def test_outliers_that_make_16_bits_coarse_are_told(
    draft: Module, calibration: Calibration, channels: str | None
) -> None:
    """One number of one token sets the scale of the hidden states; spread, it does not."""
    scope = Scope(None, LINEARS, SPAN, calibration)
    ids = windows(calibration, draft)
    (table,) = (linear for linear in linears(draft) if linear.kind == "gather")
    changed = table.weight().numpy().copy()
    rare = ids[0][np.bincount(ids.ravel())[ids[0]].argmin()]
    changed[rare, 5] = 3e4 * np.abs(changed).mean()
    set_weight(table.value, from_array(table.value.name or "", changed))
    if channels is not None:
        Rotate(channels=channels, values=False).run(draft, scope)
    Quantize(weights="int8", block="channel", activations="uint16").run(draft, scope)
    told = [note for note in scope.notes if "make 16 bits coarse" in note]
    assert bool(told) == (channels is None)
    assert all("`rotate (channels = outliers, values = false)` in front" in note for note in told)


def quantised(module: Module, calibration: Calibration, **settings) -> Module:
    Quantize(weights="int8", block="channel", **settings).run(module, Scope(None, LINEARS, SPAN, calibration))
    module.level = Level.COMPRESSED
    return module


def test_ranges_are_measured_once(draft: Module, calibration: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights and windows again, and the 8-bit cache behind 8-bit linears, find them; other weights do not."""
    runs: list[int] = []

    def counted(*words: Any) -> Any:
        runs.append(1)
        return measure_ranges(*words)

    monkeypatch.setattr(activation_ranges, "measure_ranges", counted)
    first = quantised(draft, calibration, activations="uint8")
    wanted = {pair.quantize.name: pair.encoding for pair in pairs(first.main.graph)}
    scores = [SCORES.get(node) for node in first.main.graph if node.op_type == "Attention"]
    KvCache(type="uint8").run(first, Scope(None, (), SPAN, calibration))
    assert len(runs) == 1
    again = quantised(load_hf("again", draft.source, 512), calibration, activations="uint8")
    assert {pair.quantize.name: pair.encoding for pair in pairs(again.main.graph)} == wanted
    assert [SCORES.get(node) for node in again.main.graph if node.op_type == "Attention"] == scores
    assert len(runs) == 1
    quantised(load_hf("other", draft.source, 512), calibration, activations="uint8", method="mse")
    assert len(runs) == 2


def test_every_float_tensor_of_a_decoder(target: Module, calibration: Calibration) -> None:
    graph = quantised(target, calibration, activations="uint16").main.graph
    assert violations(target) == []
    found = {pair.quantize.inputs[0]: pair.encoding for pair in pairs(graph)}
    computed = [
        node.outputs[0] for node in graph
        if node.op_type in COMPUTES
        and not (node.name or "").startswith("rotary.")
    ]  # fmt: skip
    assert computed
    assert all(value in found for value in computed)
    past = {v.name: found[v] for v in graph.inputs if (v.name or "").startswith("past_")}
    assert {e.dtype for e in past.values()} == {"int16"}  # HTP cuts the right side of a product to 8 bits in uint16
    assert all(SCORES.get(node) is not None for node in graph if node.op_type == "Attention")
    assert next(v.name for v in graph.outputs) == "logits"


def test_eight_bits_on_both_sides_of_the_selected_linears(target: Module, calibration: Calibration) -> None:
    graph = quantised(target, calibration, activations="uint8").main.graph
    nodes = {node.name: node for node in graph}

    def types(name: str) -> tuple[str, str]:
        x = nodes[name].inputs[0].producer()
        y = next(use.node for use in nodes[name].outputs[0].uses())
        return tuple(str(v.dtype.name).lower() for v in (x.inputs[0], y.outputs[0]))

    for name in ("q_proj", "v_proj", "o_proj"):
        assert types(f"layers.3.self_attn.{name}") == ("uint8", "uint8")
    assert types("lm_head") == ("uint16", "uint16")
    assert types("layers.0.mlp.down_proj") == ("uint8", "uint8")


def test_stripping_gives_the_graph_back(target: Module, calibration: Calibration) -> None:
    plain = target.clone()
    Quantize(weights="int8", block="channel").run(plain, Scope(None, LINEARS, SPAN))
    quantised(target, calibration, activations="uint16")
    strip(target.main.graph)
    ids = np.arange(24, dtype=np.int32)[None]
    feeds = {v.name: np.zeros((1, 2, 0, 64), np.float32) for v in target.main.graph.inputs if "past_" in (v.name or "")}
    shape = [int(d) for d in next(v for v in target.main.graph.inputs if "past_" in (v.name or "")).shape[1::2]]
    feeds = {name: np.zeros((1, shape[0], 0, shape[1]), np.float32) for name in feeds}
    mask = np.where(np.triu(np.ones((24, 24), bool), 1), np.float32(-1000), np.float32(0))[None, None]
    feeds |= {"input_ids": ids, "position_ids": ids, "attention_mask": mask}
    before, after = run(plain.main, feeds), run(target.main, feeds)
    assert list(before) == list(after)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_second_run_changes_nothing_and_a_later_line_measures_anew(target: Module, calibration: Calibration) -> None:
    scope = Scope(None, LINEARS, SPAN, calibration)
    line = Quantize(weights="int8", block="channel", activations="uint8")
    assert line.run(target, scope) > 0
    target.level = Level.COMPRESSED
    assert line.run(target, scope) == 0
    before = {p.quantize.name: p.encoding for p in pairs(target.main.graph)}
    head = Scope(("lm_head",), (), SPAN, calibration)
    assert Quantize(weights="int4", block=32).run(target, head) > 0
    after = {p.quantize.name: p.encoding for p in pairs(target.main.graph)}
    assert before.keys() == after.keys()
    assert {name for name in after if before[name] != after[name]} == {"lm_head.act16.quantize"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "kv", "most"),
    [({"activations": "uint16"}, False, 1.002), ({"activations": "uint8"}, False, 1.006),
     ({"activations": "uint16"}, True, 1.005)],
)  # fmt: skip
def test_what_it_costs(
    target: Module, calibration: Calibration, settings: dict[str, str], kv: bool, most: float
) -> None:
    ids = token_ids(ROOT / "examples" / "models" / "pycode-qwen3", HELDOUT.read_text())
    base = perplexity(target, ids, 4)
    quantised(target, Calibration(calibration.text, 8, 256, 0, SPAN), **settings)
    if kv:
        scope = Scope(None, (), SPAN, Calibration(calibration.text, 8, 256, 0, SPAN))
        assert KvCache(type="uint8").run(target, scope) > 0
        past = next(v for v in target.main.graph.inputs if v.name == "past_value_2_in")
        assert next(use.node for use in past.uses()).outputs[0].dtype == ir.DataType.UINT8
    ratio = perplexity(target, ids, 4) / base
    assert 0.995 < ratio < most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "rotated", "least", "most"),
    [("rtn", False, 1.2, 9.0), ("gptq", True, 0.99, 1.03), ("awq", False, 0.99, 1.03)],
)
def test_outliers_break_eight_bits_and_rotation_or_awq_mend_it(
    target: Module, outliers: Module, calibration: Calibration, method: str, rotated: bool, least: float, most: float
) -> None:
    """w4a8 on the model whose norms make outliers, relative to fp32."""
    ids = token_ids(ROOT / "examples" / "models" / "pycode-qwen3", HELDOUT.read_text())
    text = Calibration(calibration.text, 32, 256, 0, SPAN)
    if rotated:
        Rotate().run(outliers, Scope(None, (), SPAN, text))
    Quantize(weights="int8", block="channel").run(outliers, Scope(("lm_head",), (), SPAN, text))
    line = Quantize(weights="int4", block=32, method=method, activations="uint8")
    line.run(outliers, Scope(None, LINEARS, SPAN, text))
    assert least < perplexity(outliers, ids, 8) / perplexity(target, ids, 8) < most


def test_keys_are_stored_as_they_are_read(target: Module, calibration: Calibration) -> None:
    graph = quantised(target, calibration, activations="uint16").main.graph
    found = {pair.quantize.name: pair.encoding for pair in pairs(graph)}
    for name in ("past_key_0", "past_value_5"):
        assert found[f"{name}_in.act16.quantize"] == found[f"{name}_new.act16.quantize"]
    out = next(v for v in graph.outputs if v.name == "past_value_0_out")
    assert root(out) is out  # its own pair makes it


def test_refusals(target: Module, calibration: Calibration, golden_error) -> None:
    with pytest.raises(PlanError) as error:
        KvCache(type="uint8").run(target, Scope(None, (), SPAN, calibration))
    golden_error("E0419", error.value)
    with pytest.raises(PlanError) as error:
        Quantize(weights="int8", activations="uint16").run(target, Scope(None, LINEARS, SPAN))
    assert error.value.diagnostics[0].code == "E0454"
    assert Quantize(weights="int8", scales="lpbq").validate()
