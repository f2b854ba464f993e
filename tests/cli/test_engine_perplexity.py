"""What is measured is what ships: `require` is judged on the engine, in its mode; `verify --text` judges it again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from edgec.compiler.compile import engine_perplexity
from edgec.compiler.compile.engine_perplexity import judge
from edgec.compiler.driver import BrokenRequirement, compile_plan, load_plan
from edgec.compiler.verify.verify_bundle import verify_bundle

from .conftest import MODELS, ROOT

TEXT = ROOT / "examples" / "text" / "modules.txt"


def plan(tmp_path: Path, target: str, bound: str, evaluation: str = "windows = 2", name: str = "pycode-qwen2") -> Path:
    path = tmp_path / "p.edge"
    path.write_text(
        f'plan p\ndevice host\nmodel m {{ source = hf("{MODELS}/{name}") context = 512 }}\n'
        f'evaluation {{ text = "{TEXT}" {evaluation} }}\n'
        "pipeline q { quantize (weights = int4, block = 32) }\n"
        f"deploy m on cpu through q as {target}\nrequire {{ m.perplexity <= {bound} * baseline }}\n"
    )
    return path


@pytest.mark.parametrize(("target", "by"), [("mnn", "MNN with `memory = low`"), ("ort", "ONNX Runtime")])
def test_the_engine_judges_and_verify_again(tmp_path, target, by):
    result = compile_plan(load_plan(plan(tmp_path, target, "3")), tmp_path / "b")
    measured = result.manifest["measured"]
    assert measured["judged"]["m"]["by"] == by
    assert measured["perplexity"]["m"] == pytest.approx(measured["module"]["m"] * measured["judged"]["m"]["cost"])
    assert by in measured["requires"][0]["text"]
    again = verify_bundle(tmp_path / "b", TEXT, windows=2)
    assert again["ok"], again["problems"]
    assert again["perplexity"]["m"] == pytest.approx(measured["perplexity"]["m"], rel=1e-5)
    assert [row["holds"] for row in again["requires"]] == [True]


def test_verify_fails_where_a_line_does_not_hold(tmp_path):
    """The bundle is right, and the text is one on which the line does not hold."""
    result = compile_plan(load_plan(plan(tmp_path, "ort", "1.5")), tmp_path / "b")
    data = json.loads((result.bundle / "manifest.json").read_text())
    value = data["measured"]["perplexity"]["m"] / data["measured"]["baseline"]["m"]
    data["measured"]["requires"][0] |= {"bound": value * 0.9}
    raw = json.dumps(data).encode()
    (result.bundle / "manifest.json").write_bytes(raw)
    (result.bundle / "manifest.sha256").write_text(f"{hashlib.sha256(raw).hexdigest()}  manifest.json\n")
    again = verify_bundle(result.bundle, TEXT, windows=2)
    assert [one for one in again["problems"] if "does not hold" in one]


def test_a_mode_that_costs_too_much_breaks_the_line(tmp_path, monkeypatch):
    """The module holds, the engine does not: the engine decides."""
    real = engine_perplexity.loss
    monkeypatch.setattr(engine_perplexity, "loss", lambda model, ids: real(model, ids) + 1.0)
    with pytest.raises(BrokenRequirement) as raised:
        compile_plan(load_plan(plan(tmp_path, "ort", "1.5")), tmp_path / "b")
    measured = raised.value.result.measured
    assert measured.module["m"] <= 1.5 * measured.baseline["m"]
    assert any("costs" in note for note in raised.value.result.manifest["notes"])


def test_no_time_for_the_engine_is_said(tmp_path):
    result = compile_plan(load_plan(plan(tmp_path, "ort", "3", "windows = 2 engine_time = 0 s")), tmp_path / "b")
    judged = result.measured.judged["m"]
    assert (judged.windows, judged.cost) == (0, None)
    assert "the module, not the engine" in result.measured.requires[0]["text"]


def test_fewer_windows_correct_the_module(monkeypatch):
    class Held:
        def model(self, _name):
            return {"arch": {"context": 512}}

    monkeypatch.setattr(engine_perplexity, "_losses", lambda *_: [2.0])
    value, judged = judge(Held(), "m", "an engine", [], 4, 1, {4: 10.0, 1: 8.0}.__getitem__)  # pyright: ignore
    assert value == pytest.approx(10.0 * 2.718281828**2 / 8.0)
    assert str(judged) == "on an engine, 1 of 4 windows"


@pytest.mark.parametrize(("cost", "ships"), [(0.5, "normal"), (0.0, "low")])
def test_mnn_takes_its_exact_mode_where_the_other_costs(tmp_path, monkeypatch, cost, ships):
    real, calls = engine_perplexity.loss, []

    def loss(model, ids):
        calls.append(model)
        return real(model, ids) + (cost if len(calls) <= 2 else 0.0)

    monkeypatch.setattr(engine_perplexity, "loss", loss)
    result = compile_plan(load_plan(plan(tmp_path, "mnn { memory = auto }", "3")), tmp_path / "b")
    assert json.loads((result.bundle / "m" / "config.json").read_text())["memory"] == ships
    assert result.manifest["parts"]["m.cpu0"]["details"]["memory"] == ships
    assert result.measured.judged["m"].by == f"MNN with `memory = {ships}`"


def test_auto_needs_a_text(tmp_path):
    from edgec.compiler.diagnostics.diagnostic import PlanError

    path = plan(tmp_path, "mnn { memory = auto }", "3")
    text = "".join(line for line in path.read_text().splitlines(True) if not line.startswith(("evaluation", "require")))
    path.write_text(text)
    with pytest.raises(PlanError, match="needs a text to be measured on"):
        load_plan(path)
