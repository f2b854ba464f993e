"""`wide` from the plan to the emulator: linears of 8 and of 16 bits in one context, each as its part is in floats."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.driver import compile_plan, load_plan
from edgec.compiler.ir.activation_encodings import encoding_of
from edgec.compiler.runtime.generate import run_bundle
from edgec.compiler.verify.verify_bundle import verify_bundle
from edgec.targets.qnn.twins import bundled_graph

ROOT = Path(__file__).resolve().parents[2]
PLAN = """plan wide
device snapdragon_8_gen_3
model m {{ source = hf("{root}/examples/models/pycode-qwen2")  context = 64 }}
calibration {{ text = "{root}/examples/text/calibration.txt"  samples = 4  length = 64 }}
pipeline p {{
  quantize (weights = int8, block = channel)                                   on "lm_head"
  quantize (weights = int8, block = channel, activations = uint8, wide = 20%)  on "layers.*"
  bucket   (tokens = [16], context = [64])
}}
deploy m on npu through p as qnn
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    (folder / "plan.edge").write_text(PLAN.format(root=ROOT))
    compile_plan(load_plan(folder / "plan.edge"), folder / "out")
    return folder / "out"


def test_products_of_both_widths_are_in_the_binary_and_right(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    (part,) = manifest.parts_of("m")
    graph = ir.load(bundled_graph(bundle, manifest.part(part), manifest.buckets("m")[0]["name"])).graph
    products = {}
    for node in graph:
        producer = node.inputs[0].producer() if node.op_type == "MatMul" and node.inputs[0] is not None else None
        if producer is not None and (node.name or "").startswith("layers.") and "_proj" in (node.name or ""):
            found = encoding_of(producer)
            products[node.name] = None if found is None else found.dtype
    types = set(products.values())
    assert {"uint8", "uint16"} <= types, products
    found = verify_bundle(bundle)
    assert found["ok"], found["problems"]
    (facts,) = found["parts"].values()
    assert facts["emission"] is not None
    assert run_bundle(bundle, "def f(", 3)["text"]
