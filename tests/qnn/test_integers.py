"""Integer activations on the real engine: bundles against the module in ONNX Runtime, formats, boundaries, refusals."""

from __future__ import annotations

import inspect
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.emit.conformance.measure import Case
from edgec.compiler.ir.activation_encodings import Encoding
from edgec.compiler.ir.annotations import SCORES
from edgec.passes.quantization.round_to_nearest import two_level
from edgec.targets.qnn.conformance import one_op_graphs as makers
from edgec.targets.qnn.conformance import one_op_graphs_integers as makers_integers
from edgec.targets.qnn.conformance.cases_integers import grid
from edgec.targets.qnn.conformance.measure import Runner, chip_for
from edgec.targets.qnn.lower import written_rows
from edgec.targets.qnn.lower.feeds import from_target, to_target
from edgec.targets.qnn.lower.linear_integers import split_two_level
from edgec.targets.qnn.lower.lower_graphs import lower

from .conftest import MODELS
from .test_check import BUCKET, check, quantize, request

HELDOUT = MODELS.parent / "text" / "heldout.txt"
PLAN = """
plan integers
device snapdragon_8_gen_3
model target {{ source = hf("{model}")  context = 512 }}
calibration {{ text = "{text}"  samples = 8  length = 256 }}
evaluation {{ text = "{heldout}"  windows = 1 }}
pipeline p {{
  {lines}
  bucket (tokens = [64], context = [512])
}}
deploy target on npu through p as qnn {options}
"""


def test_two_level_scales_split_into_what_made_them():
    rng = np.random.default_rng(0)
    scale = (rng.uniform(0.1, 2, (64, 12)) * 10.0 ** rng.uniform(-4, 1, (64, 1))).astype(np.float16).astype(np.float32)
    made = two_level(scale)
    assert np.abs(made - scale).max(axis=1) == pytest.approx(0, abs=float(scale.max()))
    assert np.array_equal(made.astype(np.float16).astype(np.float32), made)
    parts, channel = split_two_level(made)
    assert parts.min() >= 1
    assert parts.max() == 15
    assert np.allclose(parts * channel[:, None], made, rtol=1e-7)
    with pytest.raises(ValueError, match="1 to 15"):
        split_two_level(scale)


def test_feeds_and_outputs_convert_back():
    encoding = Encoding.over(-2.0, 3.0, "uint16")
    x = np.linspace(-2, 3, 40, dtype=np.float32).reshape(1, 40)
    stored = to_target([("x", (1, 40), np.dtype(np.uint16))], {"x": x}, {"x": encoding})
    back = from_target(stored, {"x": encoding})
    assert stored["x"].dtype == np.uint16
    assert np.abs(back["x"] - x).max() <= 0.51 * encoding.scale


@pytest.mark.parametrize("words", ["u16.linear", "u8.linear", "u16.rms_norm", "u16.rotary", "u16.swish"])
def test_a_case_of_the_grid_still_comes_out_right(words):
    case = next(case for case in grid(quick=True) if case.lowering == words)
    (row,) = Runner(chip_for("v75")).run([case])
    assert row.verdict == "right"


@pytest.mark.parametrize("shape", [{"tokens": 128, "n": 3072}, {"tokens": 96, "n": 2560}])
def test_what_leaves_a_graph_behind_lpbq_is_written_in_pieces(shape, monkeypatch):
    """In one piece HTP writes such an output wrong; see targets/qnn/lower/written_rows.py."""
    words = {"k": 64, "weights": "int4", "format": "lpbq", "block": 32, "activations": "uint16"}
    case = Case("u16.linear", (), lambda: makers_integers.linear(**shape, **words))
    verdicts = []
    for widths in (written_rows.WIDTHS, range(0)):
        monkeypatch.setattr(written_rows, "WIDTHS", widths)
        runner = Runner(chip_for("v75"))
        verdicts += [row.verdict for row in runner.run([case])]
    assert verdicts[0] == "right"
    assert verdicts[1] in ("wrong", "crash")


def test_a_uint16_cache_is_why_keys_are_int16():
    """HTP reads the right side of a product of activations with 8 bits when it is uint16."""
    shape = {"tokens": 4, "context": 256, "heads": 8, "kv_heads": 2, "head_dim": 64}
    errors = {}
    for kv in ("uint16", "int16"):
        case = Case("u16.attention", (), lambda kv=kv: makers_integers.attention(**shape, kv=kv))
        (row,) = Runner(chip_for("v75")).run([case])
        errors[kv] = row.figures["error"]
    assert errors["int16"] < 0.003 < errors["uint16"]


def test_scores_without_a_range(golden_error):
    model, _ = makers_integers.attention(4, 16, 2, 2, 32, "int16")
    for node in model.graph:
        SCORES.remove(node)
    with pytest.raises(PlanError) as error:
        lower({"g": model})
    golden_error("E0638", error.value)


def test_a_plain_float_graph_stays_fp16():
    model, _ = makers.swish(3, 64)
    lowered = lower({"g": model})["g"]
    assert lowered.encodings == {}
    assert {value.dtype for value in lowered.model.graph.inputs} == {ir.DataType.FLOAT16}


def integers(**parameters):
    return quantize(weights="int4", activations="uint16", **parameters)


def test_what_phones_are_reported_to_take_draws_nothing():
    assert check("snapdragon_8_gen_3", integers(block=32), BUCKET) == []
    assert check("snapdragon_8_gen_2", integers(block="channel"), BUCKET) == []


def test_an_npu_without_fp16_takes_integers():
    assert all(d.code != "E0604" for d in check("snapdragon_8s_gen_3", integers(block=32), BUCKET))


@pytest.mark.parametrize(
    "line", [integers(block=128), quantize(weights="int4", activations="uint8"), integers(block=32, scales="float")]
)
def test_what_they_are_not_warns_and_names_what_is(line):
    (found,) = check("snapdragon_8_gen_3", line, BUCKET)
    assert (found.code, found.severity) == ("W0601", "warning")
    assert "activations = uint16` (LPBQ) is reported to run" in (found.help or "")


def test_forms_htp_has_not(golden_error):
    zero = check("snapdragon_8_gen_3", integers(symmetric=False, block=32), BUCKET)
    blocks = check("snapdragon_8_gen_3", quantize(weights="int8", block=32, activations="uint8"), BUCKET)
    cached = request("snapdragon_8_gen_3", quantize(weights="int4", block=32), BUCKET)
    cached = replace(cached, deploy=replace(cached.deploy, kv="uint8"))
    from edgec.targets.qnn import QnnTarget

    kv = [d for d in QnnTarget().check(cached) if d.code == "E0637"]
    golden_error("E0637", [*zero, *blocks, *kv])


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(inspect.getsource(tarfile) + inspect.getsource(json.decoder) + inspect.getsource(inspect))
    return path


EMBED = 'quantize (weights = int8, block = channel) on "lm_head"\n  place (device = cpu) on "embed_tokens"'
BODY = 'except ["lm_head", "embed_tokens"]'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "options", "dtypes"),
    [
        (f"quantize (weights = int4, block = 32, activations = uint16) {BODY}", "", {"uint16", "int16"}),
        (f"quantize (weights = int8, block = channel, activations = uint8) {BODY}\n  {EMBED}", "{ kv = uint8 }",
         {"uint16", "uint8"}),
    ],
)  # fmt: skip
def test_a_bundle_computes_what_its_module_does(lines, options, dtypes, text, tmp_path, capsys):
    """Perplexity of the bundle on the emulator within 0.5 % of the module's in ONNX Runtime, on the same window."""
    plan, bundle = tmp_path / "plan.edge", tmp_path / "bundle"
    model = MODELS / "pycode-qwen3"
    plan.write_text(PLAN.format(model=model, text=text, heldout=HELDOUT, lines=lines, options=options))
    assert main(["compile", str(plan), "-o", str(bundle), "--quiet"]) == 0
    manifest = json.loads((bundle / "manifest.json").read_text())
    part = next(part for part in manifest["parts"].values() if part["target"] == "qnn")
    tensors = [t for graph in part["graphs"].values() for t in (*graph["inputs"], *graph["outputs"])]
    assert {t["dtype"] for t in tensors if t.get("quantization")} == dtypes
    assert all(t.get("quantization") for t in tensors if t["name"] != "input_ids")
    capsys.readouterr()
    words = ["--text", str(HELDOUT), "--windows", "1", "--source", f"target={model}", "--json"]
    assert main(["verify", str(bundle), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    module = manifest["measured"]["perplexity"]["target"]
    assert found["perplexity"]["target"] == pytest.approx(module, rel=0.005)
