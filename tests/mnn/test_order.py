"""`layout (order = by_kind)` for MNN: the weight file in another order, and the same tokens."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from edgec.compiler.driver import check_plan, compile_plan, load_plan
from edgec.compiler.ir.ordered_data import PAGE, kind_of
from edgec.compiler.runtime.generate import Runner
from edgec.targets.mnn.file.writer import dump

EXAMPLES = Path(__file__).parents[2] / "examples"
PLAN = """
device host
model m {{ source = hf("{model}")  context = 64 }}
pipeline p {{ quantize (weights = int4, block = 32)  {layout} }}
deploy m on cpu through p as mnn {{ accept = W0307  reason = "small" }}
"""


def compiled(folder: Path, layout: str) -> Path:
    folder.mkdir()
    text = PLAN.format(model=EXAMPLES / "models" / "pycode-qwen2", layout=layout)
    (folder / "plan.edge").write_text(text)
    return compile_plan(load_plan(folder / "plan.edge"), folder / "bundle").bundle


def test_a_kind_lies_together_and_the_tokens_are_the_same(tmp_path: Path) -> None:
    plain, ordered = compiled(tmp_path / "a", ""), compiled(tmp_path / "b", "layout (order = by_kind)")
    layout = json.loads((ordered / "manifest.json").read_text())["models"]["m"]["layout"]
    assert layout["file"] == "m/llm.mnn.weight"
    rows = [row for kind in layout["kinds"] for row in kind["tensors"]]
    assert all(row["offset"] % PAGE == 0 for row in rows)
    kinds = {kind["kind"]: [row["layer"] for row in kind["tensors"]] for kind in layout["kinds"]}
    assert {"mlp.down_proj", "self_attn.q_proj"} <= kinds.keys()
    assert all(layers == sorted(layers) and len(layers) > 1 for layers in kinds.values())
    spans = [(kind["offset"], kind["offset"] + kind["bytes"]) for kind in layout["kinds"]]
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))

    def places(bundle: Path) -> dict[str, list[int]]:
        ops = dump(bundle / "m" / "llm.mnn")["oplists"]
        return {op["name"]: op["main"]["external"] for op in ops if (op.get("main") or {}).get("external")}

    before, after = places(plain), places(ordered)
    old, new = ((bundle / "m" / "llm.mnn.weight").read_bytes() for bundle in (plain, ordered))
    assert before.keys() == after.keys()
    for name, (at, *sizes) in before.items():
        assert after[name][1:] == sizes
        assert old[at : at + sum(sizes)] == new[after[name][0] : after[name][0] + sum(sizes)]
    assert {name: after[name][0] for name in after if kind_of(name)[0]} == {
        row["tensor"]: row["offset"] for row in rows
    }
    assert [before[name][0] for name in before] != [after[name][0] for name in before]
    made = []
    for bundle in (plain, ordered):
        runner = Runner(bundle)
        made.append(runner.generate(runner.tokenizer.encode("def mean(values):\n"), 12)["tokens"])
        runner.close()
    assert made[0] == made[1]


def test_a_general_graph_keeps_its_order(tmp_path: Path) -> None:
    import onnx.parser

    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "g.onnx")
    plan = tmp_path / "plan.edge"
    plan.write_text(
        'device host\nmodel m { source = onnx("g.onnx") }\npipeline p { layout (order = by_kind) }\n'
        "deploy m on cpu through p as mnn\n"
    )
    (found,) = [one for one in check_plan(plan)[1] if one.severity == "error"]
    assert found.code == "E0242"
    assert "decoders only" in found.message
