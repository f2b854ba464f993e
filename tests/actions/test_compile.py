"""A real compile as actions: the same bundle, nothing done twice, and what is said about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from edgec.compiler.actions import records
from edgec.compiler.actions.action import load_description
from edgec.compiler.actions.local import LocalRunner
from edgec.compiler.actions.perform import perform
from edgec.compiler.compile import emit_model
from edgec.compiler.diagnostics.diagnostic import Diagnostic, EdgecError, EngineError
from edgec.compiler.driver import (
    CompileOptions,
    action_graph,
    compile_plan,
    compile_plans,
    keeping,
    load_plan,
    load_request,
)
from edgec.compiler.kernels.rounding import rounding

from .conftest import MODELS


def edgec(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgec.compiler.cli", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def manifest_of(bundle: Path) -> str:
    return (bundle / "manifest.sha256").read_text()


def actions_of(plan_file: Path, *words: object) -> list[dict]:
    done = edgec("compile", plan_file, "--explain-actions", "--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["actions"]


def test_a_compile_by_processes_is_the_same_bundle_and_runs_nothing_twice(plan_file, tmp_path):
    (row,) = actions_of(plan_file)
    assert (row["kind"], row["state"], row["why"]) == ("emit", "runs", "it has never run")
    alone = compile_plan(load_plan(plan_file), tmp_path / "alone").bundle
    assert actions_of(plan_file)[0]["state"] == "runs"  # a compile in Python keeps nothing
    done = edgec("compile", plan_file, "-o", tmp_path / "b", "--jobs", 2, "--memory", "4GB")
    assert done.returncode == 0, done.stderr
    assert "[1/1] emit draft" in done.stderr
    assert manifest_of(tmp_path / "b") == manifest_of(alone)
    (row,) = actions_of(plan_file)
    assert row["state"] == "cached"
    assert records.noted(row["key"]).runs == 1
    page = (tmp_path / "b" / "actions.html").read_text()
    assert "emit" in page
    assert "GB at the peak" in page
    again = edgec("compile", plan_file, "-o", tmp_path / "c", "--json")
    assert again.returncode == 0, again.stderr
    assert records.noted(row["key"]).runs == 1
    assert manifest_of(tmp_path / "c") == manifest_of(alone)


@pytest.mark.parametrize(("rate", "kept"), [(0.0, False), (1e12, True)])
def test_files_are_kept_where_writing_them_takes_longer_than_a_copy(plan_file, tmp_path, monkeypatch, rate, kept):
    monkeypatch.setattr(emit_model, "_COPIED", rate)
    compile_plan(load_plan(plan_file), tmp_path / "b", keeping(CompileOptions()))
    (row,) = actions_of(plan_file)
    assert row["state"] == ("cached" if kept else "runs")


def test_a_library_that_is_built_on_the_way_is_no_result_of_an_action(plan_file):
    rounding.cache_clear()
    (action,) = action_graph(load_plan(plan_file), CompileOptions()).graph.actions.values()
    made = perform(action, load_request)
    assert {one.kind for one in made.outputs if not one.note} == {"emission"}


def test_nothing_to_do_is_said_and_any_change_is_seen(plan_file, tmp_path):
    words = ("compile", plan_file, "-o", tmp_path / "b")
    assert edgec(*words).returncode == 0
    made = (tmp_path / "b").stat().st_ino
    again = edgec(*words)
    assert "nothing to do" in again.stderr
    assert (tmp_path / "b").stat().st_ino == made
    config = tmp_path / "b" / "draft" / "config.json"
    config.write_text(config.read_text() + " ")
    repaired = edgec(*words)
    assert "nothing to do" not in repaired.stderr
    assert repaired.returncode == 0
    other = edgec(*words, "-D", "block=64")
    assert "nothing to do" not in other.stderr
    assert [row["why"] for row in actions_of(plan_file, "-D", "block=128")] == ["changed since it last ran: steps"]


def test_several_plans_are_one_graph(plan_file, tmp_path):
    """Two plans of the same model in another order of words: one action; a third of another block."""
    twin = tmp_path / "q.edge"
    twin.write_text(plan_file.read_text().replace("plan small", "# the same\nplan twin"))
    plans = [load_plan(plan_file), load_plan(twin), load_plan(plan_file, ["block=64"])]
    requests = [(plan, tmp_path / f"b{number}") for number, plan in enumerate(plans)]
    said: list[str] = []
    made = compile_plans(requests, CompileOptions(jobs=2, progress=lambda text: said.append(str(text))))
    assert [type(one).__name__ for one in made] == ["CompileResult"] * 3
    assert sum("] emit draft" in line for line in said) == 2
    assert (tmp_path / "b0" / "draft" / "llm.mnn.weight").read_bytes() == (
        tmp_path / "b1" / "draft" / "llm.mnn.weight"
    ).read_bytes()


def test_a_bundle_is_made_though_another_plan_fails(plan_file, tmp_path, monkeypatch):
    """Bundles are put together while actions run: what has all it needs is not lost to what fails beside it."""
    real = LocalRunner.run

    def run(self, action):
        if "block=64" in action.request["defines"]:
            raise EngineError(Diagnostic("E0990", "it died"))
        return real(self, action)

    monkeypatch.setattr(LocalRunner, "run", run)
    plans = [load_plan(plan_file), load_plan(plan_file, ["block=64"])]
    requests = [(plan, tmp_path / f"b{number}") for number, plan in enumerate(plans)]
    made, failed = compile_plans(requests, CompileOptions(jobs=2, keep_going=True))
    assert made.bundle == tmp_path / "b0"
    assert [one.code for one in failed.diagnostics] == ["E0990"]


def test_a_place_that_is_taken_is_told_before_the_work(plan_file, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").touch()
    with pytest.raises(EdgecError) as raised:
        compile_plan(load_plan(plan_file), tmp_path / "b", CompileOptions(jobs=2, actions=True))
    assert raised.value.diagnostics[0].code == "E0906"
    assert actions_of(plan_file)[0]["state"] == "runs"


def test_an_action_that_cannot_fit_is_refused(plan_file, tmp_path):
    done = edgec("compile", plan_file, "-o", tmp_path / "b", "--jobs", 2, "--memory", "300MB")
    assert done.returncode == 1
    assert "E0962" in done.stderr
    assert "--memory" in done.stderr
    assert not (tmp_path / "b").exists()


def test_a_killed_compile_leaves_no_process_and_goes_on(plan_file, tmp_path, monkeypatch):
    """Killed while the action runs: its process ends too, and the next compile makes the bundle."""
    monkeypatch.syspath_prepend(str(MODELS.parents[1] / "benchmarks"))
    from kills import orphans

    command = [sys.executable, "-m", "edgec.compiler.cli", "compile", plan_file, "-o", tmp_path / "b", "--jobs", "2"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    time.sleep(2.5)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    end = time.monotonic() + 30
    while time.monotonic() < end and orphans(child.pid):
        time.sleep(0.1)
    assert orphans(child.pid) == []
    done = edgec("compile", plan_file, "-o", tmp_path / "b", "--jobs", 2)
    assert done.returncode == 0, done.stderr
    assert records.noted(actions_of(plan_file)[0]["key"]).runs == 1


@pytest.mark.slow
def test_a_solve_that_was_killed_goes_on_behind_the_last_weight(plan_file, tmp_path):
    pytest.importorskip("torch")
    text = MODELS.parent / "text" / "calibration.txt"
    calibrated = f'calibration {{ text = "{text}" samples = 2 length = 32 }}\npipeline p {{'
    plan_file.write_text(
        plan_file.read_text()
        .replace("pipeline p {", calibrated)
        .replace("block = block)", "block = 32, method = gptq)")
    )
    command = [sys.executable, "-m", "edgec.compiler.cli", "compile", plan_file, "-o", tmp_path / "b", "--jobs", "2"]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    solved = tmp_path / "cache" / "solve"

    def entries() -> dict[str, int]:
        return {path.parent.name: path.stat().st_ino for path in solved.glob("*/*/q.bin")}

    end = time.monotonic() + 200
    while len(entries()) < 8 and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    time.sleep(2)  # its action ends with it
    before = entries()
    solve, _ = actions_of(plan_file)
    assert (solve["kind"], solve["state"]) == ("solve", "runs")
    assert "it was cut off at `gptq" in solve["why"]
    done = edgec("compile", plan_file, "-o", tmp_path / "b", "--jobs", 2)
    assert done.returncode == 0, done.stderr
    after = entries()
    assert 8 <= len(before) < len(after)
    assert {key: after[key] for key in before} == before  # not one was solved again


def test_a_snakefile_runs_the_same_actions(plan_file, tmp_path):
    made = edgec("compile", plan_file, "-o", tmp_path / "b", "--emit", "snakemake", tmp_path / "s")
    assert made.returncode == 0, made.stderr
    text = (tmp_path / "s" / "Snakefile").read_text()
    assert "mem_mb=" in text
    (description,) = (tmp_path / "s" / "actions").iterdir()
    result = tmp_path / "done" / "result.json"
    done = edgec("action", "run", description, "--result", result)
    assert done.returncode == 0, done.stderr
    assert json.loads(result.read_text())["kind"] == "emit"
    assert actions_of(plan_file)[0]["state"] == "cached"


def test_a_plan_that_changed_since_is_not_run(plan_file, tmp_path, golden_error):
    """A description has the plan's text; the model it names is another by now."""
    model = tmp_path / "model"
    model.mkdir()
    for path in (MODELS / "pycode-qwen3").iterdir():
        (model / path.name).symlink_to(path)
    plan_file.write_text(plan_file.read_text().replace(str(MODELS / "pycode-qwen3"), "model"))
    assert edgec("compile", plan_file, "--emit", "snakemake", tmp_path / "s").returncode == 0
    (description,) = (tmp_path / "s" / "actions").iterdir()
    config = (model / "config.json").read_text()
    (model / "config.json").unlink()
    (model / "config.json").write_text(config + "\n")
    with pytest.raises(EdgecError) as raised:
        perform(load_description(description), load_request)
    golden_error("E0971", raised.value, hide={str(tmp_path): "TMP"})


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "edgec.action", "version": 9}', "\0"])
def test_a_file_that_is_no_description(tmp_path, text, golden_error):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(EdgecError) as raised:
        load_description(tmp_path / "a.json")
    if not text:
        golden_error("E0970", raised.value, hide={str(tmp_path): "TMP"})
    with pytest.raises(EdgecError, match="cannot be read"):
        load_description(tmp_path / "none.json")


def test_an_unknown_workflow_engine(plan_file, golden_error):
    done = edgec("compile", plan_file, "--emit", "snakemaek", "x")
    assert "E0973" in done.stderr
    assert "snakemake" in done.stderr
    for url in ("ray://h:1", "dask://", "dask://host", "dask://h:x"):
        with pytest.raises(EdgecError) as raised:
            compile_plan(load_plan(plan_file), None, CompileOptions(on=url))
        assert raised.value.diagnostics[0].code == "E0973"
    golden_error("E0973", raised.value)


def test_facts_hang_on_content_and_not_on_places(plan_file, tmp_path):
    key = next(iter(action_graph(load_plan(plan_file), CompileOptions()).graph.actions))
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "other.edge").write_text("# a comment\n" + plan_file.read_text())
    assert next(iter(action_graph(load_plan(other / "other.edge"), CompileOptions()).graph.actions)) == key
    assert keeping(CompileOptions()).emission_key(load_plan(plan_file), load_plan(plan_file).deploys[0]) == key
