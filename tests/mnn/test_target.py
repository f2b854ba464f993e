"""The target as the driver uses it: options, checks, manifest entries, opening what was emitted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.emit.part import Part
from edgec.compiler.emit.target import EmitJob
from edgec.compiler.ir.annotations import DEVICE
from edgec.compiler.ir.linears import QuantizedWeight
from edgec.compiler.ir.opset import OPSET
from edgec.compiler.ir.weights import from_array
from edgec.compiler.plan.devices import devices
from edgec.compiler.plan.parameters import parameters
from edgec.targets.mnn import MnnOptions, MnnTarget
from edgec.targets.mnn.conformance.linears import formats
from edgec.targets.mnn.conformance.one_op_graphs import op_graphs
from edgec.targets.mnn.conformance.table import PLACE, check_format, legality, table
from edgec.targets.mnn.graph.op_classes import CLASSES, use_of
from edgec.targets.mnn.graph.ops import HANDLERS

from .conftest import HEAD, quantized
from .test_general import MLP, load


def job(module, folder: Path, **options) -> EmitJob:
    part = Part(f"{module.name}.cpu0", "cpu", dict(module.graphs))
    return EmitJob(module, [part], folder, module.name, devices()["host"], MnnOptions(**options))


def test_options_are_parameters():
    assert {row.name: row.default for row in parameters(MnnOptions)} == {
        "memory": "low",
        "threads": 4,
        "store": "dense",
        "lowering": "auto",
        "fallback": "cpu",
    }


def test_a_decoder_opens_from_its_entries(draft, tmp_path):
    quantized(draft, weights="int4", block=32, but=HEAD)
    emission = MnnTarget().emit(job(draft, tmp_path, memory="normal", threads=2))
    (part,) = emission.parts.values()
    assert part["file"] == "draft/config.json"
    assert part["details"]["weights"]["layers.0.mlp.up_proj"] == "int4 block 32 symmetric"
    arch = {"vocab": draft.arch.vocab, "context": 64}
    files = {path.relative_to(tmp_path).as_posix(): {} for path in (tmp_path / "draft").iterdir()}
    entries = {"parts": emission.parts, "files": files}
    model = MnnTarget().open_model(tmp_path, {"name": "draft", "arch": arch}, entries)
    assert model.forward([1, 2, 3]).shape == (3, draft.arch.vocab)
    assert model.length == 3
    model.close()


def test_a_draft_leaves_a_core_to_the_target_it_works_beside(draft, tmp_path, monkeypatch):
    emission = MnnTarget().emit(job(draft, tmp_path))
    files = {path.relative_to(tmp_path).as_posix(): {} for path in (tmp_path / "draft").iterdir()}
    row = {"name": "draft", "arch": {"vocab": draft.arch.vocab, "context": 64}}
    beside = {"target": "target", "draft": "draft", "overlap": {}}
    for cores, pair, threads in ((1, beside, 1), (3, beside, 2), (64, beside, 4), (2, {"draft": "draft"}, 4)):
        monkeypatch.setattr("edgec.targets.mnn.run.engine.usable_cores", lambda cores=cores: cores)
        entries = {"parts": emission.parts, "files": files, "speculation": pair}
        model = MnnTarget().open_model(tmp_path, row, entries)
        assert model._child.call("settings")["thread_num"] == threads
        model.close()


def test_a_graph_opens_from_its_entries(tmp_path):
    module = load(tmp_path, MLP)
    emission = MnnTarget().emit(job(module, tmp_path))
    (part,) = emission.parts.values()
    assert part["graphs"]["main"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["n", 32], "source": "feed"}]
    session = MnnTarget().open_graph(tmp_path, part, "main")
    assert session.run({"x": np.zeros((3, 32), np.float32)})["y"].shape == (3, 10)
    session.close()


def test_every_lowering_and_no_other_is_in_the_table():
    assert {row.lowering for row in table().rows} == {*HANDLERS, "linear"}
    assert {row.verdict for row in table().rows} == {"right"}
    assert {row.shape["format"] for row in table().rows if row.lowering == "linear"} == {f.name for f in formats()}
    assert set(table().tools[PLACE]) == {"MNN", "onnxruntime", "onnx"}


@pytest.mark.parametrize("op", sorted(HANDLERS))
def test_every_attribute_is_in_the_class_or_settled(op):
    """Set each attribute of the op's schema to a value far off: the table does not speak for it."""
    settled = CLASSES.settled.get(op, {})
    schema = onnx.defs.get_schema(op, OPSET).attributes
    assert set(settled) <= set(schema)
    (node, *_) = [graph.node() for graph in op_graphs(op)]
    assert legality().problem(use_of(node)) is None
    for name in schema.keys() - settled.keys():
        value = {"INT": 9, "INTS": [99] * 4, "FLOAT": 99.0, "STRING": "other"}[
            str(schema[name].type).rpartition(".")[2]
        ]
        usual = node.attributes.get(name)
        node.attributes.add(ir.convenience.convert_attribute(name, value))
        assert legality().problem(use_of(node)) is not None, name
        node.attributes.pop(name)
        if usual is not None:
            node.attributes.add(usual)


@pytest.mark.parametrize("op", ["Conv", "Softmax", "ReduceMean"])
def test_a_row_of_the_table_can_be_made_again(op, tmp_path):
    rows = {row.key: row.figures.get("error") for row in table().rows}
    for graph in op_graphs(op)[:3]:
        key = (PLACE, op, tuple(sorted(graph.shape().items())))
        assert graph.error(tmp_path) <= 10 * rows[key] + 1e-7


def test_a_format_that_is_not_in_the_table_is_refused(draft, tmp_path, golden_error):
    check_format("x", "int4 block 32 symmetric")
    linear = draft.node("layers.0.mlp.down_proj").inputs[1].producer()
    rows, columns = 128, 384
    q = from_array("q", np.ones((rows, columns), np.int8))
    scale = from_array("scale", np.ones((rows, columns // 96), np.float32))
    dequant = ir.Node(
        "",
        "DequantizeLinear",
        [ir.Value(name=tensor.name, const_value=tensor) for tensor in (q, scale)],
        [ir.AttrInt64("axis", 1), ir.AttrInt64("block_size", 96)],
        name="by hand",
    )
    draft.main.graph.insert_before(linear, dequant)
    linear.replace_input_with(0, dequant.outputs[0])
    with pytest.raises(PlanError) as caught:
        MnnTarget().emit(job(draft, tmp_path))
    golden_error("E0707", caught.value)
    assert QuantizedWeight(dequant, q, scale, None, 96, 1).format.describe() == "int8 block 96 symmetric"


def test_a_node_placed_on_the_npu_is_refused(draft, tmp_path):
    DEVICE.set(draft.node("lm_head"), "npu")
    with pytest.raises(PlanError, match="E0708"):
        MnnTarget().emit(job(draft, tmp_path))


def test_checking_a_plan_imports_no_engine():
    code = (
        "import sys, edgec.targets.mnn as m; m.MnnTarget();"
        "print([name for name in ('numpy', 'onnx_ir', 'MNN', 'onnxruntime', 'tokenizers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
