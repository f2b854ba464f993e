"""Every rule goes red on a module that breaks it, and no other rule does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import EngineError
from edgec.compiler.ir.annotations import DEVICE, FORMAT, KV_TYPE, SCORES
from edgec.compiler.ir.legality.rules import RULES, enforce, violations
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import MAIN, Module, initializer
from edgec.compiler.ir.weight_format import WeightFormat
from edgec.compiler.ir.weights import Weight, from_array
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.passes.bucket import Bucket

DRAFT = Path(__file__).parents[2] / "examples" / "models" / "pycode-qwen2"
ACT = "layers.0.mlp.act"
QUANTISED = """<ir_version: 11, opset_import: ["" : 24]>
g (float[2,64] x, uint4[8,64] q, float[8,2] s, uint4[8,2] z) => (float[2,8] y) <float[8,64] d, float[64,8] t>
{
  ["w.dequant"] d = DequantizeLinear<axis=1, block_size=32>(q, s, z)
  ["w.transpose"] t = Transpose<perm=[1,0]>(d)
  ["w"] y = MatMul(x, t)
}"""


def decoder() -> Module:
    return load_hf("m", DRAFT, 64)


def buckets() -> Module:
    module = decoder()
    Bucket(tokens=(1, 4), context=(16, 64)).run(module, Scope())
    module.level = Level.STATIC
    return module


def placed() -> Module:
    module = decoder()
    module.level = Level.PLACED
    for node in module.nodes():
        DEVICE.set(node, "cpu")
    return module


def half_placed_buckets() -> Module:
    module = buckets()
    DEVICE.set(next(module.nodes()), "npu")
    return module


def quantised() -> Module:
    """y[2,8] = x[2,64] ((q[8,64] - z[8,2]) s[8,2])^T, blocks of 32."""
    module = Module("m", {MAIN: ir.from_onnx_text(QUANTISED)}, Level.COMPRESSED)
    constant(module, "q", np.zeros((8, 64), ml_dtypes.uint4))
    constant(module, "s", np.ones((8, 2), np.float32))
    constant(module, "z", np.zeros((8, 2), ml_dtypes.uint4))
    return module


def constant(module: Module, name: str, array: np.ndarray) -> None:
    """Let what `DequantizeLinear` reads as `name` be the constant `array`."""
    graph = module.main.graph
    (old,) = [value for value in (*graph.inputs, *graph.initializers.values()) if value.name == name]
    graph.initializers.pop(name, None)
    old.name = "gone"
    old.replace_all_uses_with(initializer(graph, name, from_array(name, array)))
    if old in graph.inputs:
        graph.inputs.remove(old)


def node(module: Module, name: str = ACT) -> ir.Node:
    found = module.node(name)
    assert found is not None
    return found


def without_zero_point(module: Module, dtype: type) -> None:
    constant(module, "q", np.zeros((8, 64), dtype))
    node(module, "w.dequant").resize_inputs(2)
    del module.main.graph.initializers["z"]


def stated(module: Module, symmetric: bool, bits: int = 4, block: int = 32) -> None:
    """State a format of `q`, right or not."""
    held = module.main.graph.initializers["q"].const_value
    assert held is not None
    FORMAT.set(held, WeightFormat(bits, block, symmetric))


def rename(module: Module, name: str, to: str) -> None:
    node(module, name).name = to


def reorder(module: Module) -> None:
    act = node(module)
    graph = module.main.graph
    graph.remove(act)
    graph.insert_before(graph[0], act)


def add_node(module: Module, domain: str, op: str, version: int = 1, imported: bool = True) -> None:
    """Replace Swish by another op of one input."""
    act = node(module)
    act.domain, act.op_type = domain, op
    if imported and domain:
        module.main.graph.opset_imports[domain] = version


def drop(module: Module, kind: str, name: str) -> None:
    values = getattr(module.main.graph, kind)
    values.remove(next(value for value in values if value.name == name))


def reshape(module: Module, name: str, shape: list[int | str], key: str = MAIN) -> None:
    graph = module.graphs[key].graph
    next(value for value in (*graph.inputs, *graph.outputs) if value.name == name).shape = ir.Shape(shape)


def unshare(module: Module) -> None:
    value = module.graphs["t4_c64"].graph.initializers["embed_tokens.weight"]
    old = value.const_value
    assert isinstance(old, Weight)
    value.const_value = Weight(old.name, old.dtype, old.dims, old.rows, "a copy")


def init(module: Module, name: str) -> ir.Value:
    return module.main.graph.initializers[name]


def value(module: Module) -> ir.Value:
    return node(module).outputs[0]


def zeros(module: Module, name: str, shape: tuple[int, ...], dtype: type = ml_dtypes.uint4) -> None:
    constant(module, name, np.zeros(shape, dtype))


def axis(module: Module, number: int) -> None:
    node(module, "w.dequant").attributes.add(ir.AttrInt64("axis", number))


Fault = tuple[Callable[[], Module], Callable[[Module], object], str]
FAULTS: dict[str, list[Fault]] = {
    "graph-names": [
        (decoder, lambda m: m.graphs.update(t1_c64=m.graphs.pop(MAIN)), "one graph `main` before buckets"),
        (buckets, lambda m: m.graphs.clear(), "there is no graph"),
    ],
    "node-names": [
        (decoder, lambda m: rename(m, ACT, ""), "has a node without a name (Swish)"),
        (decoder, lambda m: rename(m, ACT, "norm"), "has two nodes named `norm`"),
    ],
    "value-names": [
        (decoder, lambda m: setattr(value(m), "name", None), f"without a name, made by `{ACT}`"),
        (decoder, lambda m: setattr(value(m), "name", "logits"), "two values named `logits`"),
    ],
    "order": [(decoder, reorder, f"`{ACT}` in graph `main` reads")],
    "interface": [
        (quantised, lambda m: m.main.graph.outputs.clear(), "has no output"),
        (quantised, lambda m: setattr(m.main.graph.inputs[0], "type", None), "input `x` of graph `main` has no type"),
        (quantised, lambda m: m.main.graph.inputs.append(init(m, "s")), "input `s` of graph `main` is an initializer"),
    ],
    "opset": [(decoder, lambda m: m.main.graph.opset_imports.update({"": 23}), "imports opset 23, not 24")],
    "domains": [
        (decoder, lambda m: add_node(m, "", "Swosh"), "is a Swosh, which is not in ONNX opset 24"),
        (decoder, lambda m: add_node(m, "mine", "Gelu"), "that domain is not legal here"),
        (decoder, lambda m: add_node(m, "ai.edgec", "Lut"), "ai.edgec::Lut without a function body"),
    ],
    "constants": [
        (decoder, lambda m: setattr(init(m, "norm.weight"), "const_value", None), "has no data"),
        (decoder, lambda m: setattr(init(m, "norm.weight"), "shape", ir.Shape([7])), "its data is float[128]"),
        (decoder, lambda m: setattr(init(m, "norm.weight"), "dtype", ir.DataType.INT8), "is stated as int8[128]"),
    ],
    "decoder-interface": [
        (decoder, lambda m: drop(m, "outputs", "past_key_1_out"), "`past_key_1_in` without `past_key_1_out`"),
        (decoder, lambda m: drop(m, "outputs", "logits"), "lacks the output `logits`"),
        (decoder, lambda m: setattr(m.main.graph.outputs[0], "name", "scores"), "has an output `scores`"),
        (decoder, lambda m: reshape(m, "past_key_0_in", ["B", 3, "P", 32]), "expected float[B, 2, P, 32]"),
        (decoder, lambda m: reshape(m, "input_ids", [1, 4]), "has `input_ids` as int32[1, 4]"),
        (buckets, lambda m: reshape(m, "past_key_0_in", [1, 2, 64, 32], "t4_c64"), "expected float[1, 2, 60, 32]"),
    ],
    "dequantised-weights": [
        (quantised, lambda m: zeros(m, "q", (8, 64), np.int64), "takes int64 weights"),
        (quantised, lambda m: zeros(m, "z", (8, 2), np.uint8), "has a zero point uint8[8, 2] for weights uint4[8, 64]"),
        (
            quantised,
            lambda m: zeros(m, "s", (8, 4), np.float32),
            "has a scale of shape [8, 4], its weights",
        ),
        (quantised, lambda m: zeros(m, "q", (8, 72)), "has blocks of 32, which do not divide the 72 weights"),
        (quantised, lambda m: zeros(m, "q", (8, 96)), "its weights [8, 96] need [8, 3]"),
        (quantised, lambda m: axis(m, 2), "has axis 2, its weights have 2 dimensions"),
    ],
    "annotations": [
        (
            quantised,
            lambda m: (without_zero_point(m, ml_dtypes.uint4), stated(m, False)),
            "`q` in graph `main` has no zero point, its format is int4 block 32 asymmetric",
        ),
        (quantised, lambda m: stated(m, True), "has a zero point, its format is int4 block 32 symmetric"),
        (quantised, lambda m: stated(m, True), "holds uint4, its format is int4 block 32 symmetric"),
        (quantised, lambda m: stated(m, False, bits=8), "holds uint4, its format is int8 block 32 asymmetric"),
        (quantised, lambda m: stated(m, False, block=16), "in blocks of 32, its format is int4 block 16 asymmetric"),
        (
            decoder,
            lambda m: node(m).metadata_props.update({SCORES.key: "2 1"}),
            f"`{ACT}` in graph `main` has `edgec.scores` = `2 1`: the lower end is above the upper one",
        ),
        (decoder, lambda m: KV_TYPE.set(m.main.graph, "int3"), "has `edgec.kv` = `int3`: known are uint8, int16"),
    ],
    "devices": [
        (placed, lambda m: node(m).metadata_props.clear(), f"`{ACT}` in graph `main` has no device"),
        (
            placed,
            lambda m: node(m).metadata_props.update({DEVICE.key: "gpu"}),
            "on `gpu`, which is neither cpu nor",
        ),
        (half_placed_buckets, lambda m: None, "has no device"),
    ],
    "static-shapes": [
        (buckets, lambda m: m.graphs.update(other=m.graphs.pop("t1_c16")), "is not named after a bucket"),
        (buckets, lambda m: setattr(value(m), "shape", None), f"`{ACT}.out` in graph `t1_c16` has no shape"),
        (buckets, lambda m: setattr(value(m), "shape", ir.Shape([1, "S", 384])), "the dynamic shape [1, S, 384]"),
    ],
    "shared-weights": [(buckets, unshare, "`embed_tokens.weight` is another tensor in graph `t4_c64`")],
}
ALSO = {"graph-names": {"decoder-interface"}, "static-shapes": {"decoder-interface"}}  # a nameless bucket is no bucket


@pytest.mark.parametrize("make", [decoder, placed, buckets, quantised])
def test_legal_modules_have_no_violations(make: Callable[[], Module]) -> None:
    module = make()
    assert violations(module) == []
    enforce(module, "nothing")


@pytest.mark.parametrize(("rule", "fault"), [(rule, fault) for rule, faults in FAULTS.items() for fault in faults])
def test_a_fault_turns_its_rule_red(rule: str, fault: Fault) -> None:
    make, break_it, says = fault
    module = make()
    break_it(module)
    found = violations(module)
    assert any(text.startswith(f"{rule}: ") and says in text for text in found), found
    assert {text.partition(":")[0] for text in found} <= {rule} | ALSO.get(rule, set())


def test_every_rule_has_a_fault() -> None:
    assert {rule.name for rule in RULES} == set(FAULTS)


def test_symmetric_and_per_channel_weights_are_legal() -> None:
    module = quantised()
    without_zero_point(module, ml_dtypes.int4)
    assert violations(module) == []
    constant(module, "s", np.ones(8, np.float32))
    node(module, "w.dequant").attributes.pop("block_size")
    axis(module, 0)
    assert violations(module) == []


@pytest.mark.parametrize("level", [Level.SEMANTIC, Level.TARGET])
def test_ops_of_onnx_runtime_are_legal_once_imported(level: Level) -> None:
    module = decoder()
    add_node(module, "com.microsoft", "Gelu", imported=False)
    module.level = level
    assert violations(module) == [
        f"domains: `{ACT}` in graph `main` is of the domain com.microsoft, which the model does not import"
    ]
    module.main.graph.opset_imports["com.microsoft"] = 1
    assert violations(module) == []


def test_enforce_names_the_step_and_the_first_faults(golden_error: Callable[..., None]) -> None:
    module = decoder()
    for found in list(module.nodes("Swish")) + list(module.nodes("Add")):
        found.name = ""
    with pytest.raises(EngineError) as caught:
        enforce(module, "`fold_scale`")
    assert "and 7 more" in str(caught.value)
    golden_error("E0410", caught.value)
