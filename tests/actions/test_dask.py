"""Actions on a real Dask scheduler in this process, and schedulers and workers that are no use."""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace
from pathlib import Path

import edgec
import pytest
from edgec.compiler.actions import dask_engine, records
from edgec.compiler.actions.action import Graph
from edgec.compiler.actions.dask_engine import run_on_dask, worker_problem
from edgec.compiler.actions.elsewhere import share
from edgec.compiler.actions.executor import Cancelled, Watch
from edgec.compiler.actions.facts import own_code
from edgec.compiler.actions.records import Output, Result
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import Diagnostic, EngineError
from edgec.compiler.driver import CompileOptions, compile_plan, load_plan
from edgec.compiler.files import cache

from .conftest import idle

distributed = pytest.importorskip("distributed")


@pytest.fixture
def cluster(monkeypatch):
    """A scheduler and one worker, threads of this process."""
    monkeypatch.setattr(dask_engine, "_CONNECT", 5)
    quiet = {"dashboard_address": None, "silence_logs": 50, "processes": False}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, resources={"memory": 2e9}, **quiet) as made:
        yield made


@pytest.fixture
def address(cluster):
    """Of a scheduler that other processes could reach."""
    return cluster.scheduler_address


def nobody_tells(*_: object) -> None:
    pass


def test_a_compile_on_dask_is_the_same_bundle(plan_file, tmp_path):
    quiet = {"dashboard_address": None, "silence_logs": 50, "processes": False, "protocol": "tcp://"}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, resources={"memory": 4e9}, **quiet) as made:
        url = made.scheduler_address.replace("tcp://", "dask://")
        there = edgec.compile(plan_file, tmp_path / "there", on=url).bundle
        assert main(["compile", str(plan_file), "-o", str(tmp_path / "cli"), "--on", url, "--quiet"]) == 0
        words = ["sweep", str(plan_file), "-D", "block=[32,64]", "-o", str(tmp_path / "swept"), "--on", url, "--quiet"]
        assert main(words) == 0
    here = edgec.compile(plan_file, tmp_path / "here").bundle
    assert len({(bundle / "manifest.sha256").read_text() for bundle in (here, there, tmp_path / "cli")}) == 1
    (swept,) = (tmp_path / "swept").glob("*block-32")  # its manifest knows of the `-D`
    weights = Path("draft", "llm.mnn.weight")
    assert (swept / weights).read_bytes() == (here / weights).read_bytes()
    page = (there / "actions.html").read_text()
    assert "emit" in page


def test_an_output_that_the_store_lost_is_made_again(own_cache, tmp_path, monkeypatch):
    """Its result is noted there still: nobody would make it, and what needs it would fail each time."""
    url, action = str(tmp_path / "store"), idle("a")
    cache.make("emission", "ab" * 32, lambda folder: (folder / "x").write_text("x") and None)
    made = [Output("emission", "ab" * 32)]
    records.keep(action, Result(outputs=made))
    share(Graph([action]), url)
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "other"))
    assert dask_engine._has_run(action.key, url)
    shutil.rmtree(tmp_path / "store" / "emission")
    assert not dask_engine._has_run(action.key, url)


def test_an_action_too_large_for_every_worker(own_cache, address, golden_error):
    graph = Graph([idle("large", memory=9e9)])
    with pytest.raises(EngineError) as raised:
        run_on_dask(graph, address, CompileOptions(), nobody_tells, "plan")
    golden_error("E0979", raised.value)


def test_failures_of_actions_come_back_as_they_are(own_cache, address, monkeypatch):
    """An action that no worker can do, and one that needs it: the first is told, the second is not."""
    graph = Graph()
    first = graph.add(replace(idle("first", memory=1.0), kind="compile", facts={"lowered": "0" * 64, "unit": "0"}))
    graph.add(idle("second", (first,)))
    graph.actions[first].request.update({"unit": 0})  # type: ignore[attr-defined]
    outcome = run_on_dask(graph, address, CompileOptions(keep_going=True), nobody_tells, "plan")
    error = outcome.error()
    assert error is not None
    assert "E0972" in {one.code for one in error.diagnostics}
    assert records.known(first) is None


def test_a_scheduler_that_is_not_there(own_cache, monkeypatch, golden_error):
    monkeypatch.setattr(dask_engine, "_CONNECT", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(EngineError) as raised:
        run_on_dask(Graph([idle("a")]), f"tcp://127.0.0.1:{port}", CompileOptions(), nobody_tells, "plan")
    golden_error("E0975", raised.value, hide={str(port): "PORT"})


def test_nothing_is_loaded_before_the_scheduler_is_there(plan_file, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_engine, "_CONNECT", 1)
    said: list[str] = []
    options = CompileOptions(on="dask://127.0.0.1:1", progress=lambda text: said.append(str(text)))
    with pytest.raises(EngineError) as raised:
        compile_plan(load_plan(plan_file), tmp_path / "b", options)
    assert raised.value.diagnostics[0].code == "E0975"
    assert not [text for text in said if "loading" in text]


def test_work_that_no_worker_takes_is_not_waited_for(own_cache, address, monkeypatch):
    """As where the one worker with enough memory was lost: Dask itself would wait for ever."""
    monkeypatch.setattr(dask_engine, "_workers", lambda *_: True)
    monkeypatch.setattr(dask_engine, "_EVERY", 0.1)
    monkeypatch.setattr(dask_engine, "_IDLE", 0.5)
    with pytest.raises(EngineError, match="no worker has been at work") as raised:
        run_on_dask(Graph([idle("large", memory=9e9)]), address, CompileOptions(), nobody_tells, "plan")
    assert raised.value.diagnostics[0].code == "E0975"


def test_what_nobody_needs_any_more_is_cancelled(own_cache, address, monkeypatch):
    monkeypatch.setattr(dask_engine, "_workers", lambda *_: True)
    watch = Watch()
    watch.cancelled.set()
    with pytest.raises(Cancelled):
        run_on_dask(Graph([idle("large", memory=9e9)]), address, CompileOptions(), nobody_tells, "plan", watch)


def test_a_scheduler_of_another_version(own_cache, address, monkeypatch, golden_error):
    here = distributed.__version__
    real = distributed.Client.get_versions

    def older(self, check=False):
        held = real(self, check=check)
        held["scheduler"]["packages"]["distributed"] = "2020.1.0"
        return held

    monkeypatch.setattr(distributed.Client, "get_versions", older)
    with pytest.raises(EngineError) as raised:
        run_on_dask(Graph([idle("a")]), address, CompileOptions(), nobody_tells, "plan")
    golden_error("E0976", raised.value, hide={address: "ADDRESS", here: "2026.8.0"})


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (ModuleNotFoundError("No module named 'edgec'"), "E0977"),
        ({"versions": {"onnxruntime-qnn": None}, "code": "", "sees": True}, "E0977"),
        ({"versions": {"onnxruntime-qnn": "2.6.0"}, "code": "", "sees": True}, "E0976"),
        ({"versions": {"onnxruntime-qnn": "2.7.0"}, "code": "other", "sees": True}, "E0976"),
        ({"versions": {"onnxruntime-qnn": "2.7.0"}, "code": own_code(), "sees": False}, "E0977"),
        ({"versions": {"onnxruntime-qnn": "2.7.0"}, "code": own_code(), "sees": True}, None),
    ],
)
def test_what_a_worker_has_to_have(found, code, golden_error):
    problem = worker_problem(found, {"onnxruntime-qnn": "2.7.0"}, own_code())
    assert (problem and problem[0]) == code
    if problem is not None and "lacks" in problem[1]:
        golden_error("E0977", EngineError(Diagnostic(problem[0], f"the worker W {problem[1]}", help=problem[2])))


def test_a_worker_that_lacks_an_engine_gets_nothing(own_cache, address, monkeypatch):
    graph = Graph([replace(idle("a"), request={"target": "qnn"})])
    versions = dict(dask_engine.probe(None)["versions"], **{"onnxruntime-qnn": None})
    monkeypatch.setattr(
        dask_engine, "probe", lambda _token, _settings: {"versions": versions, "code": own_code(), "sees": True}
    )
    with pytest.raises(EngineError, match="lacks `onnxruntime-qnn`"):
        run_on_dask(graph, address, CompileOptions(), nobody_tells, "plan")
