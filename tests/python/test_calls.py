"""What `import edgec` gives: checks, compiles, opened bundles, each with a short `repr` and a page for notebooks."""

from __future__ import annotations

from pathlib import Path

import edgec
import numpy as np
import onnx
import onnx.parser
import pytest

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
PLAN = """
device host
model m { source = onnx("net.onnx") }
deploy m on cpu as ort
require { bundle.size <= most }
let most = 1 MB
"""
NET = """<ir_version: 10, opset_import: ["" : 21]>
net (float[B,4] x) => (float[B,2] y)
<float[4,2] w = {1, 0, 0, 1, 1, 0, 0, 1}> { y = MatMul(x, w) }"""


@pytest.fixture
def folder(tmp_path) -> Path:
    onnx.save(onnx.parser.parse_model(NET), tmp_path / "net.onnx")
    return tmp_path


@pytest.fixture
def result(folder) -> edgec.CompileResult:
    return edgec.compile(PLAN, folder / "out", folder=folder)


def test_a_text_is_checked_in_its_folder(folder):
    assert edgec.check(PLAN, folder=folder).ok
    (missing,) = edgec.check(PLAN)
    assert missing.code == "E0301"


def test_a_path_is_checked_where_it_is(folder):
    (folder / "p.edge").write_text(PLAN)
    found = edgec.check(folder / "p.edge")
    assert found
    assert repr(found) == "<check: 0 errors, 0 warnings>"
    assert repr(found.plan) == "<plan p: m on cpu as ort>"


def test_diagnostics_of_a_wrong_plan(folder):
    wrong = edgec.check(PLAN.replace("onnx(", "onxx("), folder=folder)
    assert not wrong
    assert wrong.plan is None
    assert repr(wrong) == "<check: 1 error, 0 warnings (E0114)>"
    assert '3 | model m { source = onxx("net.onnx") }' in str(wrong)
    assert "onxx(&quot;net.onnx&quot;)" in wrong._repr_html_()
    with pytest.raises(edgec.PlanError) as caught:
        edgec.load(PLAN.replace("onnx(", "onxx("), folder=folder)
    assert [one.code for one in caught.value.diagnostics] == ["E0114"]
    assert caught.value.sources


@pytest.mark.parametrize(
    ("first", "value"),
    [("1 MB", "2 KiB"), ("1", 3), ("false", True), ("[1]", (1, 64)), ("1.0", 4.5), ("int8", "int4")],
)
def test_defines_are_python_values(folder, first, value):
    plan = f"let a = {first}\n{PLAN}"
    plans = [edgec.load(plan, folder=folder), edgec.load(plan, defines={"a": value}, folder=folder)]
    assert plans[0].defines["a"] != plans[1].defines["a"]


def test_a_bundle_is_run_and_verified(result):
    assert repr(result) == f"<compiled {result.bundle}: m, {result.size / 1e6:.2f} MB>"
    with edgec.open(result.bundle) as bundle:
        made = bundle.run({"x": np.array([[1, 2, 3, 4]], np.float32)})
        assert made["y"].tolist() == [[4, 6]]
        assert bundle.models == ["m"]
        assert bundle.size == result.size
        assert bundle.manifest["plan"]["name"] == "text"
        checked = bundle.verify()
        assert checked.ok
        assert repr(checked) == "<verified 1 part: ok>"
        assert edgec.inspect(bundle.path)["kind"] == "bundle"
        assert len(repr(bundle)) < 200


def test_a_notebook_shows_the_report(result):
    for shown in (result._repr_html_(), edgec.open(result.bundle)._repr_html_()):
        assert shown.startswith('<iframe srcdoc="&lt;!')
        assert shown.count('"') % 2 == 0
        assert "<table" not in shown  # the page is quoted whole: it cannot leave its frame
        assert "&lt;table" in shown


def test_nothing_prints_a_screenful(result):
    model = result.models[0]
    for value in (result, model, model.final, model.emission, model.cut, result.measured):
        assert len(repr(value)) < 300, type(value)


def test_a_broken_requirement_has_its_result(folder):
    with pytest.raises(edgec.BrokenRequirement) as caught:
        edgec.compile(PLAN, folder / "out", folder=folder, defines={"most": "1 B"})
    assert caught.value.result.bundle == folder / "out.rejected"
    assert "does not hold: bundle.size <= " in repr(caught.value.result)


def test_a_changed_file_is_refused(result):
    (result.bundle / "m" / "cpu0.onnx").write_bytes(b"")
    with pytest.raises(edgec.PlanError), edgec.open(result.bundle) as bundle:
        bundle.run({"x": np.zeros((1, 4), np.float32)})
    assert not edgec.open(result.bundle).verify()


def test_progress_and_jobs(folder):
    said: list[str] = []
    two = PLAN + 'model n { source = onnx("net.onnx") }\ndeploy n on cpu as ort\n'
    edgec.compile(two, folder / "out", folder=folder, jobs=2, progress=said.append)
    assert {"m: loading net.onnx", "n: loading net.onnx"} <= set(said)


@pytest.mark.slow
def test_a_decoder_continues_text_and_ids(tmp_path):
    plan = 'device host\nmodel m { source = hf("pycode-qwen2")  context = 64 }\ndeploy m on cpu as ort\n'
    result = edgec.compile(edgec.load(plan, folder=MODELS), tmp_path / "out")
    with edgec.open(result.bundle) as bundle:
        pieces: list[str] = []
        one = bundle.generate("def mean(values):\n", 6, stream=pieces.append)
        assert "".join(pieces) == one.text == str(one)
        ids = bundle._runner(None).tokenizer.encode("def mean(values):\n")
        two = bundle.generate(ids, 6)
        assert one == two
        assert (one.prompt_tokens, one.stopped, len(one.tokens)) == (len(ids), "tokens", 6)
