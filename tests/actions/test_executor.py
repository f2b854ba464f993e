"""A graph worked off by processes that are only played: budget, failures, what is known already."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
from edgec.compiler.actions import executor, records
from edgec.compiler.actions.action import Action, Graph
from edgec.compiler.actions.executor import Cancelled, Stopped, Watch, run_graph, within
from edgec.compiler.actions.finished import Finished, NotRun, stages_of
from edgec.compiler.actions.records import Result
from edgec.compiler.actions.scheduler import Limits
from edgec.compiler.diagnostics.diagnostic import Diagnostic, EngineError, PlanError

from .conftest import idle


class Played:
    """Runs nothing; `fails`: names of actions that fail, `grows`: name -> bytes it is seen to take at first."""

    def __init__(self, fails: tuple[str, ...] = (), grows: Mapping[str, int] | None = None) -> None:
        self.fails, self.grows = fails, dict(grows or {})
        self.ran: list[str] = []
        self.at_work: set[str] = set()
        self.most = 0
        self._ends: dict[str, threading.Event] = {}

    def run(self, action: Action) -> Result:
        self.at_work.add(action.key)
        self.most = max(self.most, len(self.at_work))
        end = self._ends[action.key] = threading.Event()
        try:
            if end.wait(2.0 if action.name in self.grows else 0.1):
                self.grows.pop(action.name, None)
                raise Stopped
        finally:
            self.at_work.discard(action.key)
        if action.name in self.fails:
            raise EngineError(Diagnostic("E0990", f"`{action.name}` died"))
        self.ran.append(action.name)
        made = Result(seconds=0.1, peak=1.0)
        records.keep(action, made)
        return made

    def stop(self, key: str) -> None:
        self._ends[key].set()

    def pids(self) -> Mapping[str, int]:
        return dict.fromkeys(self.at_work, 0)

    def beside(self) -> int:
        return 0


def test_what_has_run_is_not_run_again(own_cache, diamond):
    runner = Played()
    assert run_graph(diamond(), runner, Limits(2)).failed == {}
    assert runner.ran[0] == "first"
    assert runner.ran[-1] == "last"
    again = Played()
    outcome = run_graph(diamond(), again, Limits(2))
    assert again.ran == []
    assert {row.state for row in outcome.rows} == {"cached"}
    assert runner.most == 2


@pytest.mark.parametrize(("keep_going", "ran"), [(False, ["a"]), (True, ["a", "c", "d"])])
def test_after_a_failure(own_cache, keep_going, ran):
    graph = Graph([idle("a", seconds=9), idle("b", seconds=8), idle("c", seconds=7), idle("d", seconds=6)])
    broken = next(key for key, action in graph if action.name == "b")
    graph.add(idle("behind b", (broken,)))
    runner = Played(fails=("b",))
    outcome = run_graph(graph, runner, Limits(1), keep_going=keep_going)
    assert runner.ran == ran
    error = outcome.error()
    assert isinstance(error, EngineError)
    assert [one.message for one in error.diagnostics] == ["`b` died"]


def test_an_action_that_cannot_fit_is_refused_before_the_start(own_cache):
    graph = Graph([idle("small", memory=1e9), idle("large", memory=5e9)])
    with pytest.raises(PlanError) as raised:
        within(graph, Limits(2, 4e9), own=0.5e9)
    assert raised.value.diagnostics[0].code == "E0962"
    assert "`emit large`" in raised.value.diagnostics[0].message
    assert "`--memory 5.5GB`" in str(raised.value.diagnostics[0].help)
    within(graph, Limits(2, 5.5e9), own=0.5e9)


def test_what_grows_beyond_its_estimate_is_stopped_and_runs_again(own_cache, monkeypatch):
    """Two start side by side; the younger is seen to take more than is left, and is admitted with that next time."""
    runner = Played(grows={"more": 0})
    monkeypatch.setattr(executor, "resident", lambda _pid: 0)
    monkeypatch.setattr(executor, "resident_tree", lambda _pids: int(4e9) if "more" in runner.grows else int(1e9))
    graph = Graph([idle("b", memory=1e9, seconds=3), idle("more", memory=1e9)])
    outcome = run_graph(graph, runner, Limits(2, 3e9))
    rows = [row for row in outcome.rows if row.action.name == "more"]
    assert [row.state for row in rows] == ["stopped"]
    assert rows[0].peak == 4e9
    (error,) = outcome.failed.values()  # with 5.2 GB it fits no more
    assert [one.code for one in error.diagnostics] == ["E0962"]
    assert runner.ran == ["b"]


def test_estimates_learn_from_what_runs_took(own_cache):
    action = replace(idle("a", memory=1e9, seconds=10), kind="lower")
    assert records.corrected(action) == (1e9, 10)
    records.keep(action, Result(seconds=20, peak=2e9))
    assert records.corrected(action) == (pytest.approx(2.2e9), 20)
    memory, seconds = records.corrected(replace(idle("another", memory=1e9, seconds=10), kind="lower"))
    assert (memory, seconds) == (pytest.approx(2e9), 20)


def test_why_an_action_runs_is_told(own_cache):
    action = idle("a")
    assert records.why("plan", action) == "it has never run"
    records.remember_facts("plan", action)
    other = replace(action, facts={"name": "a", "steps": "others"})
    assert records.why("plan", other) == "changed since it last ran: steps"
    records.keep(action, Result(outputs=[records.Output("emission", "0" * 64)]))
    assert records.known(action.key) is None
    assert records.why("plan", action) == "its result `emission` is no longer in the cache"


def test_samples_are_taken_while_actions_run(own_cache):
    runner, started = Played(), time.perf_counter()
    outcome = run_graph(Graph([idle(str(number)) for number in range(4)]), runner, Limits(2))
    assert outcome.samples
    assert all(0 <= seconds <= time.perf_counter() - started for seconds, _ in outcome.samples)


def test_who_waits_for_an_action_goes_on_as_soon_as_it_has_run(own_cache, diamond):
    """`first` is there while `left` and `right` still run; a key that never comes is told when the graph has ended."""
    graph, watch, runner = diamond(), Watch(), Played()
    first = next(iter(graph.actions))
    run = threading.Thread(target=run_graph, args=(graph, runner, Limits(2)), kwargs={"watch": watch})
    run.start()
    watch.finished.wait([first])
    assert "last" not in runner.ran
    watch.finished.wait(list(graph.actions))
    assert runner.ran[-1] == "last"
    run.join()
    watch.finished.close()
    watch.finished.wait([first])
    with pytest.raises(NotRun):
        watch.finished.wait([first, "another"])


def test_a_graph_that_nobody_needs_is_stopped(own_cache):
    runner, watch = Played(grows={"long": 0}), Watch()
    threading.Timer(0.1, watch.cancelled.set).start()
    started = time.perf_counter()
    with pytest.raises(Cancelled):
        run_graph(Graph([idle("long"), idle("next")]), runner, Limits(1), watch=watch)
    assert time.perf_counter() - started < 1.5  # it would have run for 2 s
    assert runner.ran == []


@pytest.mark.parametrize(("own", "most"), [(0.0, 2), (1e9, 1)])
def test_room_is_left_for_what_is_done_beside_the_actions(own_cache, monkeypatch, own, most):
    """Two of 1 GB fit into 2.5 GB, but not beside the 1 GB that this process comes to."""
    monkeypatch.setattr(executor, "resident", lambda _pid: 0)
    runner = Played()
    graph = Graph([idle("a", memory=1e9), idle("b", memory=1e9)])
    run_graph(graph, runner, Limits(2, 2.5e9), watch=Watch(own=own))
    assert runner.most == most


def test_a_model_waits_for_its_own_actions_alone():
    graph = Graph()
    solve = graph.add(replace(idle("a"), kind="solve"))
    lower = graph.add(replace(idle("a", (solve,)), kind="lower"))
    units = [graph.add(replace(idle(f"a{number}", (lower,)), kind="compile")) for number in range(2)]
    emit = graph.add(idle("b"))
    stages = stages_of(graph, {"a": lower, "b": emit})
    assert stages["a"].keys("weights") == {solve}
    assert stages["a"].keys("lowered") == {solve, lower}
    assert stages["a"].keys("files") == {solve, lower, *units}
    assert (stages["b"].weights, stages["b"].files) == (frozenset(), {emit})


def test_nothing_is_left_to_wait_for_in_an_empty_graph():
    Finished().wait([])
