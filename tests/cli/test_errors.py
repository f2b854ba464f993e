"""The errors that only a compile, a run or an inspection shows, each with its golden text."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgec.compiler.commands.inspect import describe
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.driver import BrokenRequirement, compile_plan, load_plan
from edgec.compiler.oracle.text_perplexity import check_windows, read_text

from .conftest import HELDOUT, MODELS, edgec

PLAN = """plan small
device host
model draft { source = hf("MODELS/pycode-qwen2")  context = 512 }
evaluation { text = "HELDOUT"  windows = WINDOWS }
pipeline cpu { quantize (weights = int4, block = 128)  except ["lm_head", "embed_tokens"] }
deploy draft on cpu through cpu as ort
require { draft.perplexity <= 1.0001 * baseline }
"""


def write_plan(folder: Path, windows: int = 1) -> Path:
    text = PLAN.replace("MODELS", str(MODELS)).replace("HELDOUT", str(HELDOUT)).replace("WINDOWS", str(windows))
    (folder / "plan.edge").write_text(text)
    return folder / "plan.edge"


def hidden(tmp_path: Path) -> dict[str, str]:
    return {str(tmp_path): "TMP", str(MODELS): "MODELS", str(HELDOUT): "HELDOUT"}


def test_broken_requirement(tmp_path: Path, golden_error) -> None:
    plan = load_plan(write_plan(tmp_path))
    with pytest.raises(BrokenRequirement) as caught:
        compile_plan(plan, tmp_path / "out")
    assert (tmp_path / "out.rejected" / "manifest.json").is_file()
    assert caught.value.result.measured.requires[0]["holds"] is False
    golden_error("E0950", caught.value, plan.sources, hidden(tmp_path))


def test_evaluation_text_is_not_utf8(tmp_path: Path, golden_error) -> None:
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(PlanError) as caught:
        read_text([tmp_path / "latin.txt"])
    golden_error("E0951", caught.value, hide=hidden(tmp_path))


def test_evaluation_text_is_too_short(golden_error) -> None:
    check_windows(range(512), 2)
    with pytest.raises(PlanError) as caught:
        check_windows(range(511), 2)
    golden_error("E0952", caught.value)


def test_run_without_a_prompt(tmp_path: Path, golden_error) -> None:
    from edgec.compiler.commands.run import run_run

    class Arguments:
        inputs = prompt = None
        random = False
        bundle = tmp_path

    with pytest.raises(PlanError) as caught:
        run_run(Arguments())  # type: ignore[arg-type]
    golden_error("E0953", caught.value)
    assert edgec("run", tmp_path).returncode == 1


def test_inspect_of_an_unknown_file(tmp_path: Path, golden_error) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(PlanError) as caught:
        describe(tmp_path / "notes.txt")
    golden_error("E0954", caught.value, hide=hidden(tmp_path))
