"""An op of `ai.edgec` from its definition through everything that lists, checks, runs and writes it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler import registry
from edgec.compiler.cli import main
from edgec.compiler.compile.weight_error import weight_errors
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.emit.part import Part
from edgec.compiler.emit.target import EmitJob
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.linears import as_linear, linears
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.ops.find_op import broken_ops, find_op, op_names
from edgec.compiler.ir.ops.op_definition import Cost
from edgec.compiler.ir.save import save_graphs
from edgec.compiler.oracle.oracle import run
from edgec.compiler.pipeline.op_check import check_op
from edgec.compiler.pipeline.pass_check import CheckFailed, run_and_check
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.plan.devices import devices
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.sources.onnx.load_onnx import load_onnx
from edgec.passes.bucket import Bucket
from edgec.passes.quantize import Quantize
from edgec.targets.mnn import MnnTarget
from edgec.targets.qnn.lower.lower_graphs import lower

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "models" / "pycode-qwen2"
SOURCE = Path(__file__).with_name("packed_linear.py").read_text(encoding="utf-8")
ENTRIES = """[edgec.ops]
PackedLinear = packed_linear:PackedLinear
[edgec.passes]
pack_linears = packed_linear:PackLinears
"""
PROJECTIONS = "layers.*.mlp.down_proj"


@pytest.fixture
def op(plugin):
    """The definition, installed."""
    plugin("packed", ENTRIES, {"packed_linear.py": SOURCE})
    return find_op("PackedLinear")


@pytest.fixture
def example(op):
    return op.example()


def module_of(example) -> Module:
    return Module("example", {"main": example.model}, Level.COMPRESSED)


def packed_decoder(op):
    """pycode-qwen2 in int4, its down projections packed; what it was before."""
    module = load_hf("m", MODEL, 64)
    Quantize(weights="int4", block=32).run(module, Scope(except_=("embed_tokens", "lm_head")))
    module.level = Level.COMPRESSED
    before = module.clone()
    changes = registry.find_pass("pack_linears")().run(module, Scope(on=(PROJECTIONS,)))
    return before, module, changes


def test_the_definition_holds(op):
    check_op(op)


BREAKS = {
    "by its body in ONNX Runtime is": lambda op, example: example.expected["y"].__imul__(1.01),
    "not legal": lambda op, example: example.model.functions.clear(),
    "no graph of this op alone": lambda op, example: example.model.graph.append(
        ir.Node("", "Relu", [example.model.graph.inputs[0]], name="another")
    ),
    "of another node": lambda op, example: setattr(op, "as_weight_use", lambda node: as_linear(other_node(op))),
    "costs": lambda op, example: setattr(op, "cost", lambda node, rows: Cost(-1, 0)),
}


def other_node(op):
    return next(iter(type(op)().example().model.graph))


@pytest.mark.parametrize("why", BREAKS)
def test_what_does_not_hold_is_found(op, example, why):
    broken = type(op)()
    BREAKS[why](broken, example)
    broken.example = lambda: example
    with pytest.raises(CheckFailed, match=why):
        check_op(broken)


def test_calibration_that_computes_something_else_is_found(op, monkeypatch):
    pytest.importorskip("torch")
    (node,) = op.example().model.graph
    body = op.body_of(node)
    next(inner for inner in body if inner.op_type == "BitShift").attributes["direction"] = ir.AttrString(
        "direction", "LEFT"
    )
    monkeypatch.setattr(op, "body_of", lambda node: body)
    with pytest.raises(CheckFailed, match="by calibration is"):
        check_op(op)


def test_an_op_that_is_not_installed_does_not_come_back(op, example, tmp_path, monkeypatch):
    uninstall(tmp_path)
    monkeypatch.setattr("edgec.compiler.pipeline.op_check.violations", lambda module: [])
    monkeypatch.setattr("edgec.compiler.pipeline.op_check.find_spec", lambda name: None)
    with pytest.raises(CheckFailed, match="is not installed"):
        check_op(op)


def test_it_is_on_the_list_of_weights(op, example):
    (node,) = example.model.graph
    (linear,) = linears(module_of(example))
    assert (linear.name, linear.kind, linear.shape) == ("linear", "own", (16, 64))
    assert linear.quant.format.describe() == "int4 block 16 symmetric"
    assert linear.initializer.name == "packed"
    expected = example.feeds["x"].astype(np.float64) @ linear.weight().numpy().T
    np.testing.assert_allclose(example.expected["y"], expected, rtol=0, atol=1e-4)
    assert op.cost(node, rows=3) == Cost(16 * 32 + 16 * 4 * 4, 2 * 16 * 64 * 3)


def test_legality_compares_the_body_with_the_definition(example):
    module = module_of(example)
    assert violations(module) == []
    (function,) = module.main.functions.values()
    shift = next(node for node in function if node.op_type == "BitShift")
    shift.attributes["direction"] = ir.AttrString("direction", "LEFT")
    assert violations(module) == [
        "domains: `linear` in graph `main` is an ai.edgec::PackedLinear whose body is not that of its definition"
    ]
    module.main.functions.clear()
    assert "without a function body" in violations(module)[0]


def test_without_its_package_it_is_not_legal(example, tmp_path):
    uninstall(tmp_path)
    assert "PackedLinear" not in op_names()
    assert "which no installed package defines" in violations(module_of(example))[0]


def uninstall(folder):
    """As if the plug-in had been removed; `folder` is the one that its fixture installs below."""
    (folder / "site" / "packed-1.0.dist-info" / "entry_points.txt").write_text("")
    importlib.invalidate_caches()
    registry.forget()


def test_a_file_keeps_the_op_where_it_is_installed_and_its_body_where_not(example, tmp_path):
    path = save_graphs({"m": example.model}, tmp_path, "m.data")["m"]
    kept = load_onnx("m", path, 0)
    kept.level = Level.COMPRESSED
    assert [node.op_type for node in kept.main.graph] == ["PackedLinear"]
    assert violations(kept) == []
    assert as_linear(next(iter(kept.main.graph))).shape == (16, 64)
    uninstall(tmp_path)
    inlined = load_onnx("m", path, 0)
    assert "PackedLinear" not in {node.op_type for node in inlined.main.graph}
    np.testing.assert_allclose(run(inlined.main, example.feeds)["y"], example.expected["y"], rtol=0, atol=1e-4)


def test_a_function_of_that_name_with_another_body_is_inlined(op, example, tmp_path):
    (function,) = example.model.functions.values()
    for node in function:
        if node.op_type == "BitShift":
            node.attributes["direction"] = ir.AttrString("direction", "LEFT")
    path = save_graphs({"m": example.model}, tmp_path, "m.data")["m"]
    assert "PackedLinear" not in {node.op_type for node in load_onnx("m", path, 0).main.graph}


def test_a_pass_puts_it_in_and_the_shared_checks_hold(op):
    before, module, changes = packed_decoder(op)
    assert changes == module.arch.layers
    assert violations(module) == []
    assert [x.name for x in linears(module)] == [x.name for x in linears(before)]
    assert weight_errors(module) == weight_errors(before)
    formats = {x.name: x.quant.format.describe() for x in linears(module) if x.quant}
    assert formats == {x.name: x.quant.format.describe() for x in linears(before) if x.quant}
    run_and_check(registry.find_pass("pack_linears")(), before, on=[PROJECTIONS], seeds=(0,))


def test_quantize_leaves_it_alone_and_says_why(op):
    _, module, _ = packed_decoder(op)
    scope = Scope(on=(PROJECTIONS,))
    assert Quantize(weights="int8", block=32).run(module, scope) == 0
    assert {skip.reason for skip in scope.skips} == {"it is a PackedLinear, whose weight is in the form that op wants"}


def test_it_goes_into_buckets_and_engines_without_a_lowering_name_it(op, tmp_path):
    _, module, _ = packed_decoder(op)
    with pytest.raises(PlanError, match="PackedLinear"):
        MnnTarget().emit(EmitJob(module, whole(module), tmp_path, "m", devices()["host"], MnnTarget.Options()))
    Bucket(tokens=(1, 4), context=(64,)).run(module, Scope())
    module.level = Level.STATIC
    assert violations(module) == []
    with pytest.raises(PlanError, match="E0621") as caught:
        lower(module.graphs)
    assert "`PackedLinear` of the domain `ai.edgec`" in caught.value.diagnostics[0].message


def whole(module):
    return [Part("m.cpu0", "cpu", dict(module.graphs))]


def test_from_plan_to_bundle(op, tmp_path, capsys):
    plan = tmp_path / "plan.edge"
    plan.write_text(f"""plan own
device host
model m {{ source = hf("{MODEL}") context = 64 }}
pipeline c {{
    quantize (weights = int4, block = 32) except ["embed_tokens", "lm_head"]
    pack_linears () on "{PROJECTIONS}"
}}
deploy m on cpu through c as ort {{ format = dequantize }}
""")
    bundle = tmp_path / "bundle"
    assert main(["compile", str(plan), "-o", str(bundle), "--quiet"]) == 0
    manifest = json.loads((bundle / "manifest.json").read_text())
    rows = {row["name"]: row for row in manifest["models"]["m"]["weights"]}
    own, other = rows["layers.0.mlp.down_proj"], rows["layers.0.mlp.up_proj"]
    assert [own[key] for key in ("dtype", "bits", "block")] == [other[key] for key in ("dtype", "bits", "block")]
    assert own["source_line"].startswith("plan.edge:")
    assert "layers.0.mlp.down_proj" in (bundle / "report.html").read_text()
    (file,) = (bundle / "m").glob("*.onnx")
    model = ir.load(file)
    ops = [node.op_type for node in model.graph]
    layers = json.loads((MODEL / "config.json").read_text())["num_hidden_layers"]
    assert ops.count("PackedLinear") == layers
    assert [function.name for function in model.functions.values()] == ["PackedLinear"]
    capsys.readouterr()
    assert main(["inspect", str(file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["ops"]["PackedLinear"] == layers
    assert facts["linears"]["layers.0.mlp.down_proj"] == own["shape"]
    assert main(["verify", str(bundle)]) == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("PackedLinear = 3", "not a subclass of `OpDefinition`"),
        ("raise RuntimeError('no')", "raised RuntimeError: no"),
        ("{base} name, body = 'Other', ''", "calls itself `Other`"),
        ("{base} name, body = 'PackedLinear', 'PackedLinear (x) => (y) {{'", "does not parse"),
        ("{base} name, body = 'PackedLinear', 'Other (x) => (y) {{ y = Relu (x) }}'", "defines `Other`"),
        ("{base} name, body = 'PackedLinear', 'PackedLinear (x) => (y) {{ y = com.x.Relu (x) }}'", "not ONNX's own"),
    ],
)
def test_a_broken_package_is_named(plugin, text, why):
    base = "from edgec.compiler.ir.ops.op_definition import OpDefinition\nclass PackedLinear(OpDefinition):\n   "
    plugin(
        "packed",
        "[edgec.ops]\nPackedLinear = packed_linear:PackedLinear\n",
        {"packed_linear.py": text.format(base=base)},
    )
    with pytest.raises(PlanError, match="E0118") as caught:
        find_op("PackedLinear")
    assert why in caught.value.diagnostics[0].message
    assert [d.code for d in broken_ops()] == ["E0118"]
    assert [d.code for d in registry.broken_plugins()] == ["E0118"]


def test_two_packages_with_one_op_are_an_error(plugin):
    plugin("one", "[edgec.ops]\nPackedLinear = packed_linear:PackedLinear\n", {"packed_linear.py": SOURCE})
    plugin("two", "[edgec.ops]\nPackedLinear = other:PackedLinear\n", {"other.py": SOURCE})
    with pytest.raises(PlanError, match="two plug-ins bring it"):
        find_op("PackedLinear")
