"""Mistakes around a plan (places, options, damaged models): a code, a reason, the right exit, never a stack trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import EdgecError, EngineError, PlanError, explain_failure
from edgec.compiler.driver import CompileOptions, compile_plan, load_plan
from edgec.compiler.files import cache
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.sources.hf.safetensors_index import read_header

from .conftest import MODELS, edgec

PLAN = """let n = 1
device host
model draft { source = hf("model")  context = 64 }
pipeline p { quantize (weights = int8)  except ["lm_head", "embed_tokens"] }
deploy draft on cpu through p as TARGET
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A right plan beside a copy of a model that tests may damage."""
    shutil.copytree(MODELS / "pycode-qwen2", tmp_path / "model")
    (tmp_path / "plan.edge").write_text(PLAN.replace("TARGET", "ort"))
    return tmp_path / "plan.edge"


def said(*words: object, code: int = 1) -> str:
    done = edgec(*words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_compile_shows_the_lines_of_a_wrong_plan(plan: Path) -> None:
    plan.write_text(plan.read_text().replace("lm_head", "lmhead"))
    assert '{ quantize (weights = int8)  except ["lmhead"' in said("compile", plan)


def test_a_plan_that_deploys_nothing_is_not_compiled(plan: Path) -> None:
    plan.write_text("device host\n")
    assert edgec("check", plan).returncode == 0
    assert "error[E0212]" in said("compile", plan, "-o", plan.parent / "out")
    assert not (plan.parent / "out").exists()


def test_print_after_a_pass_that_is_not_in_the_plan(plan: Path) -> None:
    with pytest.raises(PlanError, match="no pipeline of the plan has a pass `quantise`"):
        compile_plan(load_plan(plan), plan.parent / "out", CompileOptions(print_after=("quantise",)))


@pytest.mark.parametrize("define", ["n", "n=", "=3"])
def test_a_definition_without_a_value(plan: Path, define: str) -> None:
    told = said("check", plan, "-D", define)
    assert "E0113" in told
    assert told.count("error[") == 1


def test_a_folder_that_cannot_be_written(plan: Path, golden_error, monkeypatch: pytest.MonkeyPatch) -> None:
    (plan.parent / "file").write_text("")
    with pytest.raises(PlanError) as caught:
        compile_plan(load_plan(plan), plan.parent / "file" / "out")
    golden_error("E0955", caught.value, hide={str(plan.parent): "TMP"})
    monkeypatch.setenv("EDGEC_CACHE", str(plan.parent / "file"))
    with pytest.raises(PlanError, match="EDGEC_CACHE"):
        cache.make_root()


def test_what_nobody_foresaw_is_told_in_a_line(golden_error) -> None:
    def told(problem: Exception) -> EdgecError:
        try:
            raise problem
        except Exception as caught:
            return explain_failure(caught)

    full = told(OSError(28, "No space left on device", "build/a.bin"))
    first = "error[E0955]: `build/a.bin` cannot be read or written: no space left on device\n"
    assert str(full).startswith(f"{first}  = help: ")
    fault = told(KeyError("q_proj"))
    assert isinstance(fault, EngineError)
    assert f"{__file__}:" in fault.diagnostics[0].message
    golden_error("E0993", explain_failure(KeyError("q_proj")))


def test_damaged_checkpoints_are_found_by_the_check(plan: Path) -> None:
    weights = plan.parent / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "error[E0342]" in said("check", plan)
    weights.write_bytes(whole)
    config = plan.parent / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "intermediate_size": 8}))
    assert "error[E0345]" in said("check", plan)


def test_a_weight_that_is_no_number(plan: Path, golden_error) -> None:
    path = plan.parent / "model" / "model.safetensors"
    stored = read_header(path)["model.layers.0.mlp.up_proj.weight"]
    weight = stored.weight()
    row = 3
    with path.open("r+b") as file:
        file.seek(stored.offset + row * weight.row_bytes // 4 * (weight.dtype.bitwidth // 8))
        file.write(np.array([np.nan], weight.dtype.numpy()).tobytes())
    loaded = next(w for w in load_hf("m", path.parent, 64).main.graph.initializers.values() if "0.mlp.up" in w.name)
    with pytest.raises(PlanError) as caught:
        loaded.const_value.numpy()
    golden_error("E0347", caught.value, hide={str(plan.parent): "TMP"})
    loaded.const_value.rows(0, row)  # the rows before it are right


def test_mnn_needs_a_tokenizer_that_can_be_read(plan: Path) -> None:
    plan.write_text(PLAN.replace("TARGET", "mnn"))
    tokenizer = plan.parent / "model" / "tokenizer.json"
    tokenizer.write_text("{}")
    assert "error[E0309]" in said("compile", plan, "-o", plan.parent / "out")
    tokenizer.unlink()
    assert "error[E0705]" in said("check", plan)


def test_a_source_without_its_path_is_a_wrong_usage(tmp_path: Path) -> None:
    assert "NAME=VALUE" in said("verify", tmp_path, "--source", "draft", code=2)
    assert "not a positive integer" in said("run", tmp_path, "--tokens", "x", code=2)


def test_a_text_called_mnn(tmp_path: Path) -> None:
    (tmp_path / "a.mnn").write_text("hello " * 100)
    assert "error[E0954]" in said("inspect", tmp_path / "a.mnn")
