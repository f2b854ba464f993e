"""`verify` finds what is wrong with a bundle by name, and measures what is right."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from edgec.compiler.bundle.manifest import MANIFEST, SEAL, hash_files, load_manifest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.oracle.oracle import DecoderOracle
from edgec.compiler.oracle.oracle import perplexity as oracle_perplexity
from edgec.compiler.oracle.text_perplexity import token_ids
from edgec.compiler.runtime.decoder_inputs import as_tensor
from edgec.compiler.runtime.engines import open_model
from edgec.compiler.runtime.perplexity import perplexity
from edgec.compiler.runtime.plain_graph import run_graph
from edgec.compiler.sources.hf.hf_source import HfSource
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.sources.origin import find, remember
from edgec.compiler.verify import part_errors
from edgec.compiler.verify.part_errors import Comparison
from edgec.compiler.verify.verify_bundle import verify_bundle
from onnx import TensorProto, helper

EXAMPLES = Path(__file__).parents[2] / "examples"
MODELS, TEXT = EXAMPLES / "models", EXAMPLES / "text" / "heldout.txt"


@pytest.fixture
def copy(pair, tmp_path):
    shutil.copytree(pair, tmp_path / "copy")
    return tmp_path / "copy"


def reseal(bundle: Path, change=lambda data: None) -> None:
    """Make the manifest agree with the files again."""
    data = json.loads((bundle / MANIFEST).read_text())
    data["files"] = hash_files(bundle)
    change(data)
    raw = json.dumps(data).encode()
    (bundle / MANIFEST).write_bytes(raw)
    (bundle / SEAL).write_text(hashlib.sha256(raw).hexdigest())


@pytest.mark.slow
def test_a_good_bundle(pair):
    result = verify_bundle(pair, TEXT, windows=3)
    assert result["problems"] == []
    assert result["ok"]
    target, draft = result["parts"]["target.cpu0"], result["parts"]["draft.cpu0"]
    assert draft["max_error"] < 1e-4  # the float module itself
    assert 0 < target["relative_error"] < 0.03  # int8
    assert target["emission"] < 1e-5 < target["quantization"] == pytest.approx(target["relative_error"], rel=1e-2)
    assert max(draft["emission"], draft["quantization"]) < 1e-5
    assert (target["graphs"], draft["graphs"]) == (6, 1)
    ids = token_ids(MODELS / "pycode-qwen2", TEXT.read_text())
    expected = oracle_perplexity(load_hf("draft", MODELS / "pycode-qwen2", 512), ids, 3)
    assert result["baseline"]["draft"] == pytest.approx(expected, rel=1e-9)
    assert result["perplexity"]["draft"] == pytest.approx(expected, rel=1e-5)
    ratio = result["perplexity"]["target"] / result["baseline"]["target"]
    assert 0.99 < ratio < 1.01
    json.dumps(result, allow_nan=False)


@pytest.mark.slow
def test_a_flipped_byte_in_any_file_is_found_by_name(copy):
    names = [path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()]
    assert len(names) > 8
    for name in names:
        raw = bytearray((copy / name).read_bytes())
        middle = len(raw) // 2
        raw[middle] ^= 1
        (copy / name).write_bytes(raw)
        result = verify_bundle(copy)
        assert not result["ok"]
        assert len(result["problems"]) == 1
        assert name in result["problems"][0] or (name == SEAL and "manifest.sha256" in result["problems"][0])
        raw[middle] ^= 1
        (copy / name).write_bytes(raw)


def test_missing_extra_and_short_files(copy):
    (copy / "report.html").unlink()
    (copy / "target" / "notes.txt").write_text("mine")
    with (copy / "draft" / "ort.data").open("r+b") as file:
        file.truncate(10)
    problems = verify_bundle(copy)["problems"]
    assert problems[:2] == ["file `report.html` is missing", "file `target/notes.txt` is not in the manifest"]
    assert problems[2].startswith("file `draft/ort.data` has 10 bytes, the manifest says ")


def test_a_link_is_no_file(copy):
    (copy / "report.html").rename(copy.parent / "report.html")
    (copy / "report.html").symlink_to(copy.parent / "report.html")
    assert verify_bundle(copy)["problems"] == ["`report.html` is a symbolic link, not a file"]


def test_what_is_no_bundle_is_an_error(tmp_path):
    with pytest.raises(PlanError) as caught:
        verify_bundle(tmp_path)
    assert caught.value.diagnostics[0].code == "E0901"


@pytest.mark.slow
def test_a_part_that_computes_something_else(copy):
    """Every hash is right, the weights are not those of the model."""
    data = copy / "draft" / "ort.data"
    raw = np.fromfile(data, np.float32)
    np.random.default_rng(0).shuffle(raw)
    raw.tofile(data)
    reseal(copy)
    result = verify_bundle(copy)
    assert not result["ok"]
    assert all("part `draft.cpu0`" in problem for problem in result["problems"])
    assert "a cosine of" in result["problems"][0]


class Astray:
    """An engine that computes a part a little otherwise than its graph says."""

    def __init__(self, session) -> None:
        self._session = session

    def run(self, feeds):
        return {name: array * np.float32(1.03) for name, array in self._session.run(feeds).items()}

    def close(self) -> None:
        self._session.close()


@pytest.mark.slow
def test_an_engine_that_strays_is_told_from_quantisation(pair, monkeypatch):
    """Three percent are less than int8 costs, and no rounding of an engine that computes in float32."""
    opened = part_errors.open_graph
    monkeypatch.setattr(part_errors, "open_graph", lambda *which: Astray(opened(*which)))
    result = verify_bundle(pair)
    assert result["parts"]["draft.cpu0"]["emission"] == pytest.approx(0.03, rel=0.02)
    assert result["parts"]["draft.cpu0"]["quantization"] < 0.02  # of the cache it is fed
    told = next(one for one in result["problems"] if "`logits`" in one and "draft.cpu0" in one)
    assert "0.03 relative from its own graph in plain operators, 0.002 is rounding" in told


def test_a_manifest_that_promises_other_tensors(copy, tmp_path, monkeypatch):
    """Hashes agree, but what the manifest says of a graph is not what its file holds."""
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))  # no float model: the parts' interfaces alone

    def change(data):
        graph = data["parts"]["draft.cpu0"]["graphs"]["main"]
        graph["inputs"][0]["dtype"] = "int64"
        graph["outputs"][1]["dtype"] = "int64"

    reseal(copy, change)
    assert verify_bundle(copy)["problems"] == [
        "part `draft.cpu0`: graph `main`: input `input_ids` of `draft/cpu0.onnx` is int32 ['B', 'S'], "
        "the manifest says int64 ['B', 'S']",
        "part `draft.cpu0`: graph `main`: output `past_key_0_out` of `draft/cpu0.onnx` is float32 ['B', 2, 'S', 32], "
        "the manifest says int64 ['B', 2, 'S', 32]",
    ]


@pytest.mark.slow
def test_without_the_float_model_nothing_is_compared(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    result = verify_bundle(copy)
    assert result["ok"]
    part = result["parts"]["draft.cpu0"]
    assert part["max_error"] is None
    assert part["why"].endswith("is not found; give it as --source draft=PATH")
    sources = {"draft": str(MODELS / "pycode-qwen2"), "target": str(MODELS / "pycode-qwen2")}
    result = verify_bundle(copy, sources=sources)
    assert result["parts"]["draft.cpu0"]["max_error"] < 1e-4
    assert len(result["problems"]) == 1
    assert "model `target`: " in result["problems"][0]
    assert "is not what `target` was compiled from: `config.json` differs" in result["problems"][0]


def test_another_model_is_not_taken_for_the_source(pair, golden_error, tmp_path):
    entry = json.loads((pair / MANIFEST).read_text())["inputs"]["draft"]
    with pytest.raises(PlanError) as caught:
        find("draft", entry, HfSource(), MODELS / "pycode-qwen3")
    golden_error("E0930", caught.value, hide={str(MODELS): "MODELS"})
    with pytest.raises(PlanError, match="there is no such path"):
        find("draft", entry, HfSource(), tmp_path / "gone")


def test_a_note_of_a_moved_model_is_not_believed(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    entry = json.loads((pair / MANIFEST).read_text())["inputs"]["draft"]
    assert find("draft", entry, HfSource()) is None
    remember(entry, MODELS / "pycode-qwen3")
    assert find("draft", entry, HfSource()) is None
    remember(entry, MODELS / "pycode-qwen2")
    assert find("draft", entry, HfSource()) == (MODELS / "pycode-qwen2").resolve()


def test_perplexity_of_the_oracle_is_the_oracles():
    module = load_hf("draft", MODELS / "pycode-qwen2", 512)
    ids = token_ids(MODELS / "pycode-qwen2", TEXT.read_text())[5000:6000]
    assert perplexity(DecoderOracle(module), ids, 2) == pytest.approx(oracle_perplexity(module, ids, 2), rel=1e-6)


def test_too_little_text_or_context(golden_error):
    model = DecoderOracle(load_hf("draft", MODELS / "pycode-qwen2", 200))
    with pytest.raises(PlanError) as caught:
        perplexity(model, [1] * 255, 2)
    golden_error("E0931", caught.value)
    with pytest.raises(PlanError) as caught:
        perplexity(model, [1] * 256, 2)
    golden_error("E0932", caught.value)


@pytest.fixture(scope="module")
def graph_bundle(tmp_path_factory):
    """A small MLP: y[N,3] = relu(x[N,8] W1) W2."""
    from edgec.compiler.driver import compile_plan, load_plan

    directory = tmp_path_factory.mktemp("mlp")
    random = np.random.default_rng(0)
    constants = {"w1": random.normal(size=(8, 32)), "w2": random.normal(size=(32, 3))}
    weights = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], "up"),
        helper.make_node("Relu", ["h"], ["r"], "act"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], "down"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", d]) for n, d in (("x", 8), ("y", 3)))
    graph = helper.make_graph(nodes, "mlp", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), directory / "mlp.onnx")
    (directory / "plan.edge").write_text(
        'plan mlp\ndevice host\nmodel m { source = onnx("mlp.onnx") }\ndeploy m on cpu as ort\n'
    )
    return compile_plan(load_plan(directory / "plan.edge"), directory / "bundle").bundle, constants


def test_a_plain_graph_runs_on_arrays(graph_bundle, tmp_path):
    bundle, constants = graph_bundle
    x = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    told = run_graph(bundle, tmp_path / "in.npz", tmp_path / "out.npz")
    assert told["outputs"]["y"]["shape"] == [5, 3]
    expected = np.maximum(x @ constants["w1"], 0) @ constants["w2"]
    with np.load(tmp_path / "out.npz") as file:
        np.testing.assert_allclose(file["y"], expected, rtol=0, atol=1e-4)


def test_a_plain_graph_is_verified(graph_bundle):
    result = verify_bundle(graph_bundle[0], TEXT)
    assert result["ok"]
    assert result["parts"]["m.cpu0"]["max_error"] < 1e-5
    assert result["perplexity"] == {}


def test_arrays_that_do_not_fit(graph_bundle, tmp_path, golden_error):
    np.savez(tmp_path / "in.npz", y=np.zeros(3))
    with pytest.raises(PlanError, match=r"reads `x` \(float32 Nx8\), which is not given"):
        run_graph(graph_bundle[0], tmp_path / "in.npz")
    np.savez(tmp_path / "in.npz", x=np.zeros((5, 7)))
    with pytest.raises(PlanError) as caught:
        run_graph(graph_bundle[0], tmp_path / "in.npz")
    golden_error("E0923", caught.value)
    np.savez(tmp_path / "in.npz", x=np.array([{}], dtype=object))
    with pytest.raises(PlanError) as caught:
        run_graph(graph_bundle[0], tmp_path / "in.npz")
    assert caught.value.diagnostics[0].code == "E0922"
    (tmp_path / "in.npz").write_text("no arrays")
    with pytest.raises(PlanError) as caught:
        run_graph(graph_bundle[0], tmp_path / "in.npz")
    golden_error("E0922", caught.value, hide={str(tmp_path): "TMP"})


def test_a_plain_graph_takes_no_prompt(graph_bundle, golden_error):
    from edgec.compiler.runtime.generate import run_bundle

    with pytest.raises(PlanError) as caught:
        run_bundle(graph_bundle[0], "hello", 3)
    golden_error("E0918", caught.value)


def emulators() -> int:
    """How many processes of the HTP emulator run."""
    found = psutil.Process().children(recursive=True)
    return sum(any("qnn.htp.worker" in word for word in process.cmdline()) for process in found)


@pytest.mark.slow
def test_one_model_on_two_engines_with_two_cache_layouts(tmp_path):
    """The first layer on the CPU keeps its K/V in float32 in ONNX Runtime's order, the others in Genie's fp16 order."""
    from edgec.compiler.driver import compile_plan, load_plan

    (tmp_path / "models").symlink_to(MODELS)
    (tmp_path / "plan.edge").write_text(
        """
        plan mixed
        device snapdragon_8_gen_3
        model t { source = hf("models/pycode-qwen3") context = 512 }
        pipeline p {
          quantize (weights = int4, block = 32) except ["lm_head", "embed_tokens"]
          place    (device = cpu)               on ["embed_tokens", "layers.0.*", "layers.3.mlp.down_proj"]
          bucket   (tokens = [4], context = [512])
        }
        deploy t on npu through p as qnn
        """
    )
    bundle = compile_plan(load_plan(tmp_path / "plan.edge"), tmp_path / "bundle").bundle
    data = json.loads((bundle / MANIFEST).read_text())
    layouts = {part: entry.get("kv", data["models"]["t"]["kv"]) for part, entry in data["parts"].items()}
    types = {part: kv["dtype"] for part, kv in layouts.items()}
    assert types == {"t.cpu0": "float32", "t.npu1": "float16", "t.cpu2": "float32", "t.npu3": "float16"}
    sources = {spec["name"]: spec["source"] for spec in data["parts"]["t.npu1"]["graphs"]["t4_c512"]["inputs"]}
    assert sources["layers.0.mlp_residual"] == "t.cpu0"
    assert (sources["past_key_1_in"], sources["attention_mask"]) == ("kv", "feed")
    result = verify_bundle(bundle)
    assert result["problems"] == []
    assert 0 < result["parts"]["t.cpu0"]["relative_error"] < 0.25  # int4 alone
    assert 0 < result["parts"]["t.npu1"]["relative_error"] < 0.3
    model = open_model(load_manifest(bundle), "t")
    assert model.forward([1, 2, 3]).shape == (3, 2048)
    assert emulators() == 1  # for both NPU parts
    model.close()
    assert emulators() == 0

    def change(data):
        data["parts"]["t.npu1"]["graphs"]["t4_c512"]["graph"] = "elsewhere"

    reseal(bundle, change)
    problems = verify_bundle(bundle)["problems"]
    assert problems[0] == "part `t.npu1`: `t_ctx.bin`: graph `elsewhere` is not in the binary"


def test_what_is_no_number_on_both_sides_is_no_difference():
    both, other = np.array([1.0, np.nan, np.inf]), np.array([1.0, np.nan, -np.inf])
    found = Comparison()
    found.bound = 1e-3
    found.add("y", "main", both, both)
    found.split("y", "main", both, both, both)
    assert (found.problems, found.max_error, found.emission) == ([], 0.0, 0.0)
    for wrong in (other, np.array([1.0, 2.0, np.inf])):
        found = Comparison()
        found.bound = 1e-3
        found.split("y", "main", wrong, both, both)
        assert found.problems


@pytest.mark.parametrize(
    ("what", "wrong"),
    [("one step", 0), ("one step, floats", 1), ("three steps", 1), ("zeros", 1), ("another sign", 1), ("16 bits", 1)],
)
def test_a_step_of_eight_bits_is_rounding(what, wrong):
    """SmolLM2's down_proj has 7 steps of 128 beside its first token's outlier: one step is a third of its norm."""
    rng = np.random.default_rng(0)
    levels = np.clip(np.round(rng.normal(0, 1.5, 576)), -7, 7)
    plain, step = levels * 0.052236, rng.choice([-1, 0, 0, 0, 1], 576) * 0.052236
    if what == "16 bits":
        plain = plain + rng.integers(-200, 200, 576) * 0.052236 / 256
    made = {"three steps": plain + 3 * step, "zeros": 0 * plain, "another sign": -plain}.get(what, plain + step)
    found = Comparison()
    found.bound = 0.15
    found.split("y", "t1_c256", made, plain, None, integers=what != "one step, floats")
    assert found.emission > 0.3
    assert len(found.problems) == wrong


def test_a_number_of_no_axes_stays_one():
    spec = {"name": "x", "dtype": "int32", "shape": []}
    assert as_tensor(np.array(3, np.int64), spec).shape == ()


def test_zeros_are_not_compared_by_their_direction():
    """An engine in float16 leaves 3e-5 where zeros go in; a tenth of what the tensor otherwise holds is no rounding."""
    for made, problems in ((3e-5, 0), (0.2, 1)):
        found = Comparison()
        found.add("y", "main", np.array([2.0, -1.0]), np.array([2.0, -1.0]))
        found.add("y", "main", np.full(2, made), np.zeros(2))
        assert len(found.problems) == problems
