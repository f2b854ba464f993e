"""Which action starts when: needs before users, never above cores or memory, and close to the shortest way."""

from __future__ import annotations

import random
import time

import pytest
from edgec.compiler.actions.action import Graph
from edgec.compiler.actions.scheduler import Limits, Scheduler, lower_bound, simulate

from .conftest import idle


def of_4b_for_six_chips() -> Graph:
    """Costs as compiles of four shards in three buckets have: two formats, each lowered once, then 24 compiles."""
    numbers, graph = random.Random(0), Graph()
    for form in range(4):
        solve = graph.add(idle(f"solve {form}", memory=3e9, seconds=900))
        lower = graph.add(idle(f"lower {form}", (solve,), 2e9, 60))
        for chip in range(6):
            for shard in range(4):
                name = f"compile {form} {chip} {shard}"
                graph.add(idle(name, (lower,), numbers.uniform(3e9, 6e9), numbers.uniform(90, 220)))
    return graph


@pytest.mark.parametrize("workers", [1, 4, 16, 64])
def test_the_makespan_is_close_to_the_lower_bound(workers):
    graph = of_4b_for_six_chips()
    limits = Limits(workers, 8e9 * workers)
    assert simulate(graph, limits).makespan <= 1.2 * lower_bound(graph, limits)


def test_needs_end_before_their_users_start(diamond):
    graph = diamond()
    spans = simulate(graph, Limits(2)).spans
    for key, action in graph:
        assert all(spans[need][1] <= spans[key][0] for need in action.needs)
    assert simulate(graph, Limits(2)).makespan == 3
    assert simulate(graph, Limits(1)).makespan == 4


def test_memory_is_never_above_the_budget():
    graph, numbers = Graph(), random.Random(1)
    for number in range(60):
        graph.add(idle(str(number), memory=numbers.uniform(1, 5), seconds=numbers.uniform(1, 9)))
    spans = simulate(graph, Limits(8, 10.0)).spans
    assert len(spans) == 60
    for start, _ in spans.values():
        held = sum(graph.actions[key].memory for key, (a, b) in spans.items() if a <= start < b)
        assert held <= 10.0


def test_what_does_not_fit_is_not_started():
    graph = Graph([idle("large", memory=3.0), idle("small", memory=1.0)])
    scheduler = Scheduler(graph, Limits(4, 2.0))
    first = scheduler.next()
    assert first is not None
    assert graph.actions[first].name == "small"
    assert scheduler.next() is None
    assert scheduler.left == 1


def test_ten_thousand_actions_are_planned_in_seconds():
    started = time.process_time()
    graph = Graph()
    before: list[str] = []
    for number in range(10_000):
        before.append(graph.add(idle(str(number), tuple(before[-2:]) if number % 3 else ())))
    assert len(simulate(graph, Limits(16)).spans) == 10_000
    assert time.process_time() - started < 5


def test_one_key_is_one_action():
    graph = Graph([idle("a"), idle("a"), idle("b")])
    assert len(graph) == 2
    with pytest.raises(ValueError, match="not in the graph"):
        graph.add(idle("c", ("0" * 64,)))
