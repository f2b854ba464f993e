"""`quantize(method = keep)`: the integers of a GGUF ship bit for bit where the target stores them so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.driver import check_plan
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.ops.find_op import find_op
from edgec.compiler.oracle.oracle import DecoderOracle
from edgec.compiler.pipeline.op_check import check_op
from edgec.compiler.pipeline.pass_check import run_and_check
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.sources.gguf.load_gguf import load_gguf
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.passes.quantize import Quantize
from edgec.passes.rotate import Rotate

from .make_gguf import Type, write_gguf
from .test_bundles import MODELS, TEXT, edgec

FOLDER = MODELS / "pycode-qwen2"
KEEP = Quantize(method="keep")
GRIDS = {Type.Q4_0: ("INT4", None), Type.Q4_1: ("UINT4", "minimum"), Type.Q8_0: ("INT8", None)}


def load(folder: Path, kind: Type) -> Module:
    return load_gguf("m", write_gguf(FOLDER, folder / "m.gguf", lambda _name: kind), 64)


@pytest.mark.parametrize("kind", GRIDS, ids=lambda kind: kind.name)
def test_the_module_holds_the_integers_of_the_file(tmp_path, kind):
    module = load(tmp_path, kind)
    plain = {linear.name: linear.weight().numpy() for linear in linears(module)}
    ids = list(range(5, 25))
    expected = DecoderOracle(module).forward(ids)
    assert KEEP.run(module, Scope()) == len(plain)
    module.level = Level.COMPRESSED
    assert violations(module) == []
    dtype, minimum = GRIDS[kind]
    for linear in linears(module):
        quant = linear.quant
        assert quant is not None
        assert (quant.q.dtype, quant.block, quant.zero_point) == (ir.DataType[dtype], 32, None)
        assert (quant.minimum is not None) == (minimum is not None)
        np.testing.assert_array_equal(linear.weight().numpy(), plain[linear.name])
    np.testing.assert_allclose(DecoderOracle(module).forward(ids), expected, atol=1e-5 * np.abs(expected).max())
    assert KEEP.run(module, Scope()) == 0  # what is kept is kept


@pytest.mark.parametrize("kind", [Type.Q4_1, Type.Q5_0], ids=lambda kind: kind.name)
def test_keep_is_a_pass(tmp_path, kind):
    module = load(tmp_path, kind)
    assert run_and_check(KEEP, module).changes == 16


@pytest.mark.parametrize("key", ["weights", "block", "symmetric", "scales", "activations", "act_order"])
def test_keep_takes_no_other_setting(key):
    other = {
        "weights": "int4",
        "block": 64,
        "symmetric": False,
        "scales": "float",
        "activations": "uint16",
        "act_order": True,
    }
    assert [problem[0] for problem in Quantize(method="keep", **{key: other[key]}).validate()] == [key]
    assert KEEP.validate() == []
    assert any("needs `weights`" in str(part) for part in Quantize().validate()[0])


def test_integers_lie_where_llama_cpp_has_them(tmp_path):
    """Byte j of a block holds weights j and j + 16."""
    module = load(tmp_path, Type.Q4_1)
    KEEP.run(module, Scope())
    (head,) = [linear for linear in linears(module) if linear.name == "layers.0.mlp.down_proj"]
    assert head.quant is not None
    w, q = head.weight().rows(0, 4), head.quant.q.rows(0, 4).astype(np.int64)
    for row in range(4):
        order = np.argsort(w[row, :32], kind="stable")
        assert (np.diff(q[row, :32][order]) >= 0).all()
    assert q.min() == 0
    assert q.max() == 15


def test_another_grid_is_rounded_and_the_loss_is_said(tmp_path):
    module, scope = load(tmp_path, Type.Q5_0), Scope()
    KEEP.run(module, scope)
    assert {linear.quant.q.dtype for linear in linears(module) if linear.quant} == {ir.DataType.UINT8}
    (note,) = scope.notes
    assert note.startswith(
        "16 weights stored as Q5_0 have no such form here and were rounded to int8 block 32 asymmetric"
    )
    assert float(note.rpartition(" ")[2].rstrip("%")) < 2


def test_a_minimum_without_a_place_is_rounded(tmp_path):
    module, scope = load(tmp_path, Type.Q4_1), Scope(minimums=False)
    KEEP.run(module, scope)
    assert {linear.quant.minimum for linear in linears(module) if linear.quant} == {None}
    assert "stored as Q4_1" in scope.notes[0]
    assert 1 < float(scope.notes[0].rpartition(" ")[2].rstrip("%")) < 10


def test_a_later_line_decides(tmp_path):
    module = load(tmp_path, Type.Q4_0)
    KEEP.run(module, Scope())
    Quantize(weights="int8").run(module, Scope(on=("lm_head",)))
    formats = {linear.name: str(linear.quant.format) for linear in linears(module) if linear.quant}
    assert formats["lm_head"] == "int8 block 32 symmetric"
    assert formats["embed_tokens"] == "int4 block 32 symmetric"


def test_what_stores_floats_is_named(tmp_path, golden_error):
    mixed = lambda name: Type.F16 if "down_proj" in name else Type.Q8_0  # noqa: E731
    module = load_gguf("m", write_gguf(FOLDER, tmp_path / "m.gguf", mixed), 64)
    with pytest.raises(PlanError) as caught:
        KEEP.run(module, Scope(on=("*.down_proj",)))
    golden_error("E0421", caught.value)
    scope = Scope()
    assert KEEP.run(module, scope) == 14
    floats = ["layers.0.mlp.down_proj", "layers.1.mlp.down_proj"]
    assert scope.notes[0].startswith(f"`{floats[0]}`, `{floats[1]}` of `m` have no integers to keep")
    assert [linear.name for linear in linears(module) if not linear.quant] == floats
    with pytest.raises(PlanError, match="and 13 more of `m` have no integers to keep"):
        KEEP.run(load_hf("m", FOLDER, 64), Scope())


def test_a_rotated_weight_has_no_integers_any_more(tmp_path):
    module = load(tmp_path, Type.Q8_0)
    Rotate().run(module, Scope())
    with pytest.raises(PlanError, match="an earlier line changed them"):
        KEEP.run(module, Scope())


PLAN = """
device host
model m {{ source = gguf("m.gguf")  context = 256 }}
evaluation {{ text = "{text}"  windows = 4 }}
pipeline p {{ quantize (method = keep) }}
deploy m on cpu through p as {target}
require {{ m.perplexity <= {bound} * baseline }}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "kind", "dtype", "ratio"),
    [
        ("mnn { memory = normal }", Type.Q4_1, "uint4", 1.0005),
        ("mnn { memory = normal }", Type.Q4_0, "int4", 1.0005),
        ("mnn", Type.Q8_0, "int8", 1.01),
        ("ort", Type.Q4_0, "int4", 1.0005),
    ],
)
def test_bundles_have_the_perplexity_of_the_file(tmp_path, target, kind, dtype, ratio):
    write_gguf(FOLDER, tmp_path / "m.gguf", lambda _name: kind)
    text = PLAN.format(text=TEXT / "modules.txt", target=target, bound=ratio)
    (tmp_path / "p.edge").write_text(text)
    edgec("compile", tmp_path / "p.edge", "-o", tmp_path / "b", "--quiet")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert {row["dtype"] for row in manifest["models"]["m"]["weights"]} == {dtype}
    checked = json.loads(edgec("verify", tmp_path / "b", "--text", TEXT / "modules.txt", "--windows", 4, "--json"))
    assert checked["ok"], checked["problems"]
    assert checked["perplexity"]["m"] / checked["baseline"]["m"] == pytest.approx(1.0, abs=ratio - 1)


def test_the_op_of_a_minimum_is_what_it_says():
    definition = find_op("DequantizeBlocks")
    assert definition is not None
    check_op(definition)
    (node,) = definition.example().model.graph
    assert definition.cost(node, 7).operations == 2 * 8 * 64


ROUNDED = """
device snapdragon_8_gen_3
model m {{ source = gguf("m.gguf")  context = 64 }}
evaluation {{ text = "{text}"  windows = 1 }}
pipeline p {{
  quantize (method = keep)
  bucket (tokens = [1], context = [64])
}}
deploy m on npu through p as qnn {option}
"""


def test_what_a_target_cannot_keep_is_said_before_it_is_rounded(tmp_path, monkeypatch, golden_error):
    """HTP has no smallest value per block: without a bound this is a warning, each time, which a line may accept."""
    write_gguf(FOLDER, tmp_path / "m.gguf", lambda _name: Type.Q4_1)
    monkeypatch.chdir(tmp_path)
    plan = Path("p.edge")

    def warnings(more: str = "", option: str = ""):
        plan.write_text(ROUNDED.format(text=TEXT / "modules.txt", option=option) + more)
        found = check_plan(plan)[1]
        return [one for one in found if one.severity == "warning"]

    for _ in range(2):
        (told,) = warnings()
        assert told.code == "W0310"
        assert told.accepted is None
    golden_error("W0310", [told])
    assert warnings("require { m.perplexity <= 1.5 * baseline }") == []
    (told,) = warnings(option='{ accept = W0310  reason = "a draft" }')
    assert told.accepted == "a draft"
