"""activation_sparsity keeps the largest channels of what a linear reads, token by token; layout orders the file."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgec.compiler.driver import compile_plan, load_plan
from edgec.compiler.ir.active_channels import cut, share, without_cut
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.ordered_data import PAGE, kind_of
from edgec.compiler.oracle.oracle import DecoderOracle, run
from edgec.compiler.pipeline.pass_check import run_and_check
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.activation_sparsity import ActivationSparsity

GRAPH = """
<ir_version: 10, opset_import: ["" : 23]>
g (float[2, 5] x) => (float[2, 3] y) <float[5, 3] w> { y = MatMul(x, w) }
"""


def test_each_token_keeps_its_own_largest_channels() -> None:
    w = np.arange(15, dtype=np.float32).reshape(5, 3)
    text = GRAPH.replace("float[5, 3] w>", f"float[5, 3] w = {{{', '.join(map(str, w.ravel()))}}}>")
    result = run_and_check(ActivationSparsity(top_k=0.4), text)
    assert result.ops == ["Abs", "TopK", "ReduceMin", "GreaterOrEqual", "Where", "MatMul"]
    x = np.array([[1, -5, 2, 3, 0], [4, 0.5, 1, -1, 6]], np.float32)
    kept = np.array([[0, -5, 0, 3, 0], [4, 0, 0, 0, 6]], np.float32)
    assert np.allclose(run(result.module.main, {"x": x})["y"], kept @ w)


def test_linears_of_one_input_share_the_cut(draft: Module) -> None:
    result = run_and_check(ActivationSparsity(top_k=0.3), draft, on=["layers.0.mlp.*"])
    found = cut(linears(result.module))
    assert [linear.name for linear in found] == [f"layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")]
    assert result.ops.count("TopK") == 2
    assert all(abs(share(linear) - 0.3) < 0.02 for linear in found)
    assert "read 30 % of their channels" in result.notes[0]


def test_all_channels_are_no_cut(draft: Module) -> None:
    result = run_and_check(ActivationSparsity(top_k=1.0), draft, on=["layers.0.mlp.gate_proj"])
    assert result.changes == 0
    assert "all of its input" in result.skips[0].reason


def test_the_module_without_the_cut_is_the_one_before(draft: Module) -> None:
    assert without_cut(draft) is None
    made = draft.clone()
    ActivationSparsity(top_k=0.2).run(made, Scope(on=("*.mlp.*",)))
    whole = without_cut(made)
    assert whole is not None
    ids = [3, 1, 4, 1, 5]
    assert np.array_equal(DecoderOracle(whole).forward(ids), DecoderOracle(draft).forward(ids))
    assert not np.allclose(DecoderOracle(made).forward(ids), DecoderOracle(draft).forward(ids))
    assert [node.op_type for node in whole.main.graph] == [node.op_type for node in draft.main.graph]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("layers.3.mlp.gate_proj.weight.packed", ("mlp.gate_proj", 3)),
        ("layers.12.mlp.gate_proj.scales", ("mlp.gate_proj", 12)),
        ("/model/layers/4/attn/k_proj/weight", ("attn.k_proj", 4)),
        ("layers.0.norm", ("norm", 0)),
        ("embed_tokens.weight", (None, 0)),
    ],
)
def test_kinds_are_what_a_name_says_besides_its_layer(name, kind) -> None:
    assert kind_of(name) == kind


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ordered")
    examples = Path(__file__).parents[2] / "examples"
    (folder / "plan.edge").write_text(f"""
device host
model m {{ source = hf("{examples}/models/pycode-qwen2")  context = 64 }}
pipeline p {{
  quantize (weights = int8)
  activation_sparsity (top_k = 30%)  on "*.mlp.*"
  bucket (tokens = [1, 8], context = [64])
  layout (order = by_kind)
}}
deploy m on cpu through p as ort {{ accept = W0307  reason = "small" }}
""")
    return compile_plan(load_plan(folder / "plan.edge"), folder / "bundle").bundle


def test_the_index_says_where_each_kind_lies(ordered: Path) -> None:
    entry = json.loads((ordered / "manifest.json").read_text())["models"]["m"]
    layout = entry["layout"]
    places = {}
    for path in (ordered / "m").glob("*.onnx"):
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            facts = {row.key: row.value for row in tensor.external_data}
            if facts:
                places[tensor.name] = int(facts["offset"]), int(facts["length"])
    rows = [row for kind in layout["kinds"] for row in kind["tensors"]]
    assert {row["tensor"]: (row["offset"], row["bytes"]) for row in rows}.items() <= places.items()
    assert {name for name in places if kind_of(name)[0]} == {row["tensor"] for row in rows}
    assert all(row["offset"] % PAGE == 0 for row in rows)
    layers = {kind["kind"]: [row["layer"] for row in kind["tensors"]] for kind in layout["kinds"]}
    assert all(found == sorted(found) for found in layers.values())
    ends = [(kind["offset"], kind["offset"] + kind["bytes"]) for kind in layout["kinds"]]
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ends))
    assert max(end for _, end in ends) <= min(at for name, (at, _) in places.items() if kind_of(name)[0] is None)


def test_an_ordered_and_cut_bundle_runs_and_says_what_a_token_reads(ordered: Path) -> None:
    from edgec.compiler.runtime.generate import run_bundle

    assert len(run_bundle(ordered, "def mean(values):", 4)["tokens"]) == 4
    active = json.loads((ordered / "manifest.json").read_text())["models"]["m"]["active"]
    assert active["active_bytes_per_token"] < active["bytes_per_token"]
    assert all(abs(row["kept"] / row["of"] - 0.3) < 0.01 for row in active["linears"].values())
    assert active["perplexity"] is None


def test_an_index_that_does_not_fit_its_file_is_refused(ordered: Path) -> None:
    from edgec.compiler.bundle.consistency import contradictions

    data = json.loads((ordered / "manifest.json").read_text())
    assert contradictions(data) == []
    kinds = data["models"]["m"]["layout"]["kinds"]
    kinds[-1]["bytes"] += 1 << 40
    assert "reaches beyond" in contradictions(data)[0]
    kinds[0]["tensors"][0]["offset"] += 1
    assert "where something else is" in contradictions(data)[0]
