"""HTP's sparse store: half of the weights in five eighths of the bits, bit for bit what the dense form computes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import EngineError, PlanError
from edgec.compiler.diagnostics.warn import EdgecWarning
from edgec.compiler.emit.child_process import Child
from edgec.compiler.emit.conformance.table import RIGHT, Row
from edgec.compiler.ir.sparse_pattern import Sparsity
from edgec.compiler.ir.sparsity import kept_units
from edgec.targets.qnn import QnnTarget, emit, sparse_store
from edgec.targets.qnn.conformance import cases_sparse
from edgec.targets.qnn.conformance.table import table
from edgec.targets.qnn.guard import KIND, Guard, guard_key, keep_sizes, known_sizes
from edgec.targets.qnn.htp import sparse_option
from edgec.targets.qnn.htp.chip import tool_versions
from edgec.targets.qnn.htp.compile import compile_shared, compile_twin
from edgec.targets.qnn.sparse_store import asked
from onnx import TensorProto, helper, numpy_helper

from .conftest import MODELS
from .test_compile import digest

ROWS = 32
PLAN = """
plan sparse
device {device}
model t {{ source = hf("{model}")  context = 128 }}
calibration {{ text = "{text}"  samples = 2  length = 64 }}
pipeline p {{
  sparsify (pattern = {pattern})
  quantize (weights = {weights}, block = channel, activations = uint16)
  bucket (tokens = [1, 8], context = [128])
}}
deploy t on npu through p as qnn {{ {option} }}
"""


def weight(k: int, n: int, dense: bool = False) -> np.ndarray:
    """Integers [K, N], 2:4 along K."""
    groups = np.random.default_rng(k + n).integers(-127, 128, (k // 4, 4, n))
    if not dense:
        np.put_along_axis(groups, np.argsort(np.abs(groups), 1)[:, :2], 0, 1)
    return groups.reshape(k, n).astype(np.int8)


weight_of = weight


def chain(sizes: tuple[int, ...], tokens: int, rows: int = ROWS) -> onnx.ModelProto:
    """Linears one after the other on uint16 activations, as a lowered graph has them, fed at least `rows` rows."""
    constants = {"scale": np.float32(0.001), "zero": np.uint16(32768)}
    nodes: list[onnx.NodeProto] = []

    def op(kind: str, inputs: list[str], **attributes: int) -> str:
        name = f"v{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def requantised(value: str) -> str:
        return op("DequantizeLinear", [op("QuantizeLinear", [value, "scale", "zero"]), "scale", "zero"])

    x = op("DequantizeLinear", ["x", "scale", "zero"])
    copies = -(-rows // tokens)
    for index, (k, n) in enumerate(pairwise(sizes)):
        w, s, z = f"w{index}", f"s{index}", f"z{index}"
        constants |= {w: weight(k, n), s: np.full(n, 0.002, np.float32), z: np.zeros(n, np.int8)}
        if copies > 1:
            x = requantised(op("Concat", [x] * copies, axis=1))
        x = requantised(op("MatMul", [x, op("DequantizeLinear", [w, s, z], axis=1)]))
        if copies > 1:
            constants |= {f"b{index}": np.array([0]), f"e{index}": np.array([tokens]), "rows": np.array([1])}
            x = requantised(op("Slice", [x, f"b{index}", f"e{index}", "rows"]))
    op("QuantizeLinear", [x, "scale", "zero"])
    nodes[-1].output[0] = "y"
    shapes = {"x": sizes[0], "y": sizes[-1]}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.UINT16, [1, tokens, size])
        for name, size in shapes.items()
    }
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [values["x"]], [values["y"]], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def write(folder: Path, sizes: tuple[int, ...], buckets: tuple[int, ...], rows: int = ROWS) -> list[str]:
    folder.mkdir(exist_ok=True)
    for tokens in buckets:
        onnx.save(chain(sizes, tokens, rows), folder / f"t{tokens}.onnx")
    return [f"t{tokens}" for tokens in buckets]


def test_buckets_share_sparse_weights_of_any_size_and_bytes_are_the_same(tmp_path, chip):
    """576 is no multiple of 256: behind such weights the compiler leaves memory as it finds it."""
    sizes = (576, 576, 1536, 576)
    graphs = write(tmp_path / "in", sizes, (1, 8, 64))
    count = sum(k * n for k, n in pairwise(sizes))
    made = compile_shared(tmp_path / "in", graphs, chip, tmp_path / "a", "x", sparse=True)
    again = compile_shared(tmp_path / "in", graphs, chip, tmp_path / "b", "x", sparse=True)
    dense = compile_shared(tmp_path / "in", graphs, chip, tmp_path / "c", "x")
    assert digest(made.binary) == digest(again.binary)
    saved = 8 * (dense.info.bytes - made.info.bytes) / count
    assert 2.7 < saved < 3.1  # bits a weight, of 8


@pytest.mark.parametrize("tokens", [1, 3, 8])
def test_the_same_bits_with_32_rows_and_others_without(tokens, tmp_path, chip):
    """The guard lets the one through and not the other: a single row is read as if the weight were dense."""
    verdicts = {}
    x = np.random.default_rng(0).normal(32768, 4000, (1, tokens, 256)).astype(np.uint16)
    for rows in (ROWS, 1):
        folder = tmp_path / f"rows{rows}"
        (graph,) = write(folder, (256, 1024, 256), (tokens,), rows)

        def twin(sparse: bool, child: Child, folder: Path = folder, graph: str = graph) -> Path:
            out = folder.with_name(f"{folder.name}-{sparse}")
            return compile_twin(folder, graph, chip, out, child, sparse).onnx[graph]

        with Guard(chip) as guard:
            verdicts[rows] = guard.compared(twin, {"x": x}, "a chain")
    assert isinstance(verdicts[ROWS], tuple)
    if tokens == 1:
        assert isinstance(verdicts[1], str)
        assert "are others than the dense form's" in verdicts[1] or "does not run" in verdicts[1]


def compiled(tmp_path: Path, capsys, **words: str) -> tuple[int, str]:
    text = MODELS.parent / "text" / "calibration.txt"
    plan = tmp_path / "plan.edge"
    words = {"device": "snapdragon_8_gen_3", **words}
    plan.write_text(PLAN.format(model=MODELS / "pycode-qwen3", text=text, **words))
    code = main(["compile", str(plan), "-o", str(tmp_path / "out"), "--quiet"])
    return code, capsys.readouterr().out


def test_what_would_not_shrink_is_left_dense(tmp_path, chip, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "weight", lambda k, n: weight_of(k, n, dense=True))
    (graph,) = write(tmp_path / "in", (256, 512), (8,))

    def twin(sparse: bool, child: Child) -> Path:
        return compile_twin(tmp_path / "in", graph, chip, tmp_path / f"{sparse}", child, sparse).onnx[graph]

    feeds = {"x": np.random.default_rng(0).normal(32768, 4000, (1, 8, 256)).astype(np.uint16)}
    with Guard(chip) as guard:
        assert str(guard.compared(twin, feeds, "a chain")).startswith("sparse it takes ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "pattern", "weights"),
    [
        ("snapdragon_8_gen_2", "2:4", "int8"),
        ("snapdragon_8_elite", "pairs", "int4"),
        ("snapdragon_8_elite_gen_5", "2:4", "int8"),
    ],
)
def test_a_model_is_stored_sparse_on_other_chips(device, pattern, weights, tmp_path, capsys):
    """The compile's own guard has held every graph bit for bit against its dense form, or it would be stored dense."""
    words = {"pattern": pattern, "weights": weights, "option": "sparse_store = on", "device": device}
    code, out = compiled(tmp_path, capsys, **words)
    assert code == 0, out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [row["form"] for row in manifest["models"]["t"]["sparse"]] == ["htp"]


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "weights"), [("2:4", "int8"), ("pairs", "int4")])
def test_a_model_is_stored_sparse(pattern, weights, tmp_path, capsys, monkeypatch):
    code, out = compiled(tmp_path, capsys, pattern=pattern, weights=weights, option="sparse_store = on")
    assert code == 0, out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    part = next(part for part in manifest["parts"].values() if part["target"] == "qnn")
    assert part["details"]["sparse_store"] is True
    (bought,) = manifest["models"]["t"]["sparse"]
    assert (bought["form"], bought["speed"], bought["pattern"]) == ("htp", "unknown", pattern)
    assert bought["bytes"]["disk"] == bought["bytes"]["token"] < 0.7 * bought["bytes"]["dense"]
    assert bought["measured"]["sparse"] < bought["measured"]["dense"]
    assert main(["verify", str(tmp_path / "out"), "--json"]) in (0, 3)  # 3: half of the weights are gone
    verified = json.loads(capsys.readouterr().out)
    facts = next(facts for facts in verified["parts"].values() if facts["device"] == "npu")
    assert facts["emission"] < 0.01
    monkeypatch.setattr(Guard, "compared", lambda *_: pytest.fail("the same graphs were compared again"))
    before = (tmp_path / "out" / part["file"]).read_bytes()
    code, out = compiled(tmp_path, capsys, pattern=pattern, weights=weights, option="sparse_store = on")
    assert (code, (tmp_path / "out" / part["file"]).read_bytes()) == (0, before)


def test_a_verdict_holds_for_these_graphs_chip_and_code_alone(tmp_path, chip, monkeypatch):
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path))
    key = guard_key("a" * 64, ["one"], chip)
    assert known_sizes(key) is None
    keep_sizes(key, None)
    assert known_sizes(key) is None
    keep_sizes(key, (200, 150))
    assert known_sizes(key) == (200, 150)
    others = ("b" * 64, ["one"], chip), ("a" * 64, ["two"], chip), ("a" * 64, ["one"], replace(chip, arch=79))
    assert [known_sizes(guard_key(*other)) for other in others] == [None, None, None]
    keep_sizes(key, (150, 200))  # a store that does not shrink is none
    assert known_sizes(key) is None
    (note,) = (path for path in (tmp_path / KIND).rglob("*") if path.is_file())
    note.write_bytes(note.read_bytes()[:-9])
    with pytest.warns(EdgecWarning, match="W0955"):
        assert known_sizes(key) is None


@pytest.mark.parametrize("arch", ["v73", "v75", "v79", "v81"])
def test_the_rows_that_a_linear_is_fed_are_right_in_every_form(arch):
    """The table's graphs with and without the store: the same bits from 17 rows on, garbage below."""
    rows = [row for row in table().rows if row.place == arch and row.lowering == cases_sparse.LOWERING]
    assert {row.key for row in rows} == {
        Row(arch, case.lowering, dict(case.shape), RIGHT).key for case in cases_sparse.grid()
    }
    enough = [row for row in rows if row.shape["rows"] > 16]
    assert {row.verdict for row in enough} == {RIGHT}
    assert min(row.shape["rows"] for row in enough) <= sparse_store.ROWS
    assert all(row.figures["share"] < 1 for row in enough)
    few = {(row.shape["weights"], row.shape["beside"]) for row in rows if row.verdict == "wrong"}
    assert few == {(weights, beside) for weights in ("int4", "int8") for beside in cases_sparse.NEIGHBOURS}


def test_nothing_to_store_is_an_error(golden_error):
    with pytest.raises(PlanError) as caught:
        asked(QnnTarget.Options(sparse_store="on"), [])
    golden_error("E0642", caught.value)
    assert not asked(QnnTarget.Options(), [])


def test_another_build_of_the_engine_is_refused(monkeypatch, golden_error):
    monkeypatch.setattr(sparse_option, "BUILDS", {})
    monkeypatch.setattr(emit, "asked", lambda *_: True)
    with pytest.raises(EngineError) as caught:
        emit._sparse_store(SimpleNamespace(options=None, parts=[], origin=None))
    golden_error("E0643", caught.value, hide={tool_versions()["onnxruntime-qnn"]: "X"})


def test_the_pattern_of_the_chain_is_2_4():
    assert kept_units(weight(64, 8).T != 0, Sparsity("2:4")).max() <= 2
    assert kept_units(weight(64, 8, dense=True).T != 0, Sparsity("2:4")).max() > 2


def test_the_option_is_not_set_for_a_library_that_is_not_known(tmp_path):
    library = tmp_path / "libQnnHtp.so"
    library.write_bytes(b"another build")
    assert not sparse_option.known_build(library)
    with pytest.raises(ValueError, match="not a build whose sparse store is known"):
        sparse_option.switch(library, True)
    sparse_option.switch(library, False)
