"""`cpu_parts = mnn`: parts beside the NPU in MNN, from the plan to two lanes on the emulator."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
from edgec.compiler.bundle.manifest import Manifest, load_manifest
from edgec.compiler.compile.cpu_parts import give_cpu_parts
from edgec.compiler.diagnostics.diagnostic import Diagnostic, EngineError, Span
from edgec.compiler.driver import compile_plan, load_plan
from edgec.compiler.emit.part import Part
from edgec.compiler.emit.target import EmitJob
from edgec.compiler.ir.annotations import SHADOW
from edgec.compiler.ir.module import Module
from edgec.compiler.oracle.compare import LARGE, ORDINARY, random_feeds
from edgec.compiler.partition.parts import PartGraph
from edgec.compiler.plan.devices import devices
from edgec.compiler.plan.plan import Deploy
from edgec.compiler.runtime.engines import open_reference
from edgec.compiler.runtime.generate import run_bundle
from edgec.compiler.verify.verify_bundle import verify_bundle
from edgec.targets.mnn import MnnOptions
from edgec.targets.mnn.graph import beside
from edgec.targets.qnn import QnnOptions

ROOT = Path(__file__).resolve().parents[2]
PLAN = """plan beside
device snapdragon_8_gen_3
model m {{ source = hf("{root}/examples/models/pycode-qwen2")  context = 16 }}
calibration {{ text = "{root}/examples/text/calibration.txt"  samples = 4  length = 32 }}
pipeline p {{
  quantize (weights = int8, block = channel)                       on "lm_head"
  quantize (weights = int8, block = channel, activations = uint8)  on "layers.*"
  shadow   (coverage = 10%)                                on "layers.0.mlp.*_proj"
  shadow   (coverage = 10%, rare = read, rare_channels = 4)  on "layers.1.mlp.*_proj"
  bucket   (tokens = [4], context = [16])
}}
deploy m on npu through p as qnn {{ cpu_parts = mnn }}
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beside")
    (folder / "plan.edge").write_text(PLAN.format(root=ROOT))
    compile_plan(load_plan(folder / "plan.edge"), folder / "out")
    return folder / "out"


def targets(manifest: Manifest) -> dict[str, str]:
    return {name: manifest.part(name)["target"] for name in manifest.parts_of("m") if ".cpu" in name}


def test_mnn_has_what_its_rules_cover_and_the_compile_names_the_rest(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    found = targets(manifest)
    assert set(found.values()) == {"mnn", "ort"}, found
    left = [name for name, target in found.items() if target == "ort"]
    (note,) = [one for one in manifest.data["notes"] if "cpu_parts = mnn" in one]
    assert all(f"`{name}`" in note for name in left)
    assert "TopK" in note or "ReduceMax" in note or "Abs" in note
    files = {row["file"] for row in manifest.data["libraries"]}
    assert {"libMNN.so", "libonnxruntime.so"} <= files


def test_both_engines_run_beside_the_npu_and_every_part_is_verified(bundle: Path) -> None:
    found = verify_bundle(bundle)
    assert found["ok"], found["problems"]
    manifest = load_manifest(bundle)
    of_mnn = [name for name, target in targets(manifest).items() if target == "mnn"]
    assert of_mnn
    for name in of_mnn:
        assert found["parts"][name]["emission"] <= found["parts"][name]["emission_bound"] == 2e-3
    made = run_bundle(bundle, "def f(", 3)
    assert made["text"]
    assert made["lanes"].keys() == {"npu", "cpu"}


def test_what_verify_holds_mnn_beside_reads_mnns_own_weights(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    name = next(name for name, target in targets(manifest).items() if target == "mnn")
    ((bucket, entry),) = manifest.part(name)["graphs"].items()
    file = bundle / entry["file"]
    plain = ir.load(file.with_suffix(".plain.onnx"))
    held = [one.const_value for one in plain.graph.initializers.values()]
    assert {one.location for one in held if isinstance(one, ir.ExternalTensor)} == {f"{file.name}.weight"}
    feeds = random_feeds(plain.graph, kind=LARGE)
    session = open_reference(manifest, name, bucket)
    assert session is not None
    try:
        assert all(made.any() for made in session.run(feeds).values())
    finally:
        session.close()


def test_large_numbers_are_beyond_the_range_of_a_shadow() -> None:
    """Else the proof of a shadow, which is zero of what nothing clips, would compare zeros."""
    graph = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 24]>
        g (float[64] x) => (float[64] y) <float low = {-200.0}, float high = {300.0}> { y = Clip(x, low, high) }"""
    ).graph
    assert abs(random_feeds(graph, kind=LARGE)["x"]).max() < 150  # any other Clip
    SHADOW.set(graph.node(0), "cpu")
    assert abs(random_feeds(graph, kind=LARGE)["x"]).max() > 300
    assert abs(random_feeds(graph, kind=ORDINARY)["x"]).max() < 10


def test_without_a_part_on_the_cpu_the_option_is_said_to_change_nothing() -> None:
    span = Span("plan.edge", 1, 1, 1, 1)
    deploy = Deploy("m", "npu", None, "qnn", QnnOptions(cpu_parts="mnn"), "fp16", span)
    whole = PartGraph([Part("m.npu0", "npu", {})])
    cut, notes = give_cpu_parts(Module("m", {}), deploy, whole)
    assert cut == whole
    assert notes == ["`cpu_parts = mnn` changes nothing: no part of `m` runs on the CPU"]


def test_a_part_that_mnn_computes_wrong_names_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wrong(*_: object) -> None:
        raise EngineError(Diagnostic("E0711", "MNN computes `a` wrong", help="deploy the model `as ort`"))

    monkeypatch.setattr(beside, "emit_graph", wrong)
    part = Part("m.cpu0", "cpu", {"main": ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)})
    job = EmitJob(Module("m", {}), [part], tmp_path, "m", devices()["host"], MnnOptions(), beside=True)
    with pytest.raises(EngineError) as caught:
        list(beside.emit_beside(job))
    (told,) = caught.value.diagnostics
    assert told.help is not None
    assert "leave `cpu_parts = mnn` out" in told.help
