"""Lanes run at once, wait for what they read, and end together when a part fails."""

from __future__ import annotations

import threading
import time

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.bundle.schedule import Schedule, Transfer, lanes_by_device
from edgec.compiler.ir.annotations import DEVICE, SHARD
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import Module
from edgec.compiler.oracle.oracle import open_session
from edgec.compiler.partition.parts import partition
from edgec.compiler.runtime.run_schedule import run_schedule
from hypothesis import given, settings
from hypothesis import strategies as st

PATIENCE = 20  # seconds that a barrier waits for the other lane; it takes none


def schedule_of(devices: dict[str, str], edges: list[tuple[str, str]]) -> Schedule:
    order = tuple(devices)
    return Schedule(order, lanes_by_device(devices, order), tuple(Transfer(a, a, b, a) for a, b in edges))


FORK = schedule_of(
    {"first": "npu", "main": "npu", "aside": "cpu", "last": "npu"},
    [("first", "main"), ("first", "aside"), ("main", "last"), ("aside", "last")],
)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    names = [f"p{i}" for i in range(draw(st.integers(1, 8)))]
    devices = {name: draw(st.sampled_from(["npu", "cpu", "gpu"])) for name in names}
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return schedule_of(devices, [pair for pair in pairs if draw(st.booleans())])


@given(schedule=schedules())
@settings(max_examples=60, deadline=None)
def test_every_part_runs_once_after_what_it_reads(schedule):
    begun, ended, lock = [], set(), threading.Lock()

    def run(part):
        with lock:
            begun.append(part)
            assert schedule.makers()[part] <= ended
        time.sleep(0)
        with lock:
            ended.add(part)

    run_schedule(schedule, run)
    assert sorted(begun) == sorted(schedule.parts)
    for lane in schedule.lanes.values():
        assert [part for part in begun if part in lane] == list(lane)


def test_one_lane_stays_in_the_callers_thread():
    seen = []
    run_schedule(
        schedule_of({"a": "npu", "b": "npu"}, []), lambda part: seen.append((part, threading.current_thread()))
    )
    assert seen == [("a", threading.current_thread()), ("b", threading.current_thread())]


def test_two_lanes_are_in_their_parts_at_once():
    """`main` and `aside` each wait for the other to have begun: one after the other they would break the barrier."""
    both = threading.Barrier(2, timeout=PATIENCE)
    run_schedule(FORK, lambda part: both.wait() if part in ("main", "aside") else None)


def test_real_sessions_overlap():
    """Products of matrices in ONNX Runtime on two lanes: each begins before the other has ended."""
    size, products = 512, 24
    weight = (np.random.default_rng(0).standard_normal((size, size)) / np.sqrt(size)).astype(np.float32)
    kind, shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([size, size])
    x = ir.Value(name="x", type=kind, shape=shape)
    w = ir.Value(name="w", type=kind, shape=shape, const_value=ir.tensor(weight, name="w"))
    graph = ir.Graph([x], [], nodes=[], initializers=[w], opset_imports={"": 20}, name="main")

    def add(op, operands, name, device, shard="0"):
        node = ir.node(op, operands, name=name)
        node.metadata_props.update({DEVICE.key: device, SHARD.key: shard})
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = f"{name}.out", kind, shape
        graph.append(node)
        return node.outputs[0]

    first = add("Tanh", [x], "first", "npu")
    ends = []
    for device, shard in (("npu", "1"), ("cpu", "0")):
        value = first
        for i in range(products):
            value = add("MatMul", [value, w], f"{device}.{i}", device, shard)
        ends.append(value)
    graph.outputs.append(add("Add", ends, "last", "npu"))
    whole = ir.Model(graph, ir_version=10)
    cut = partition(Module("m", {"main": whole}, Level.PLACED), "npu")
    sessions = {part.name: open_session(part.graphs["main"]) for part in cut.parts}
    given = {"x": np.random.default_rng(1).standard_normal((size, size)).astype(np.float32)}
    values, spans = dict(given), {}

    def run(part):
        session = sessions[part]
        feeds = {value.name: values[value.name] for value in session.get_inputs()}
        start = time.perf_counter()
        made = session.run(None, feeds)
        spans[part] = (start, time.perf_counter())
        values.update(zip([value.name for value in session.get_outputs()], made, strict=True))

    schedule = cut.schedule()
    ((a, b),) = schedule.overlaps()
    run_schedule(schedule, run)
    assert spans[a][0] < spans[b][1]
    assert spans[b][0] < spans[a][1]
    expected = open_session(whole).run(None, given)[0]
    np.testing.assert_array_equal(values["last.out"], expected)


class Failed(Exception):
    pass


def test_an_error_in_one_lane_ends_the_other_and_is_raised():
    """`aside` fails while `main` runs: `main` ends, the part after it never begins, and nobody waits for ever."""
    schedule = schedule_of(
        {"main": "npu", "aside": "cpu", "next": "npu", "last": "cpu"}, [("main", "next"), ("next", "last")]
    )
    both, ran = threading.Barrier(2, timeout=PATIENCE), []
    failed = threading.Event()

    def run(part):
        ran.append(part)
        if part in ("main", "aside"):
            both.wait()
        if part == "aside":
            failed.set()
            raise Failed("the engine died")
        failed.wait(PATIENCE)
        time.sleep(0.2)  # the other lane's error is known by now

    with pytest.raises(Failed, match="the engine died"):
        run_schedule(schedule, run)
    assert sorted(ran) == ["aside", "main"]


def test_a_lane_that_waits_for_the_failed_part_ends():
    ran = []

    def run(part):
        ran.append(part)
        raise Failed(part)

    with pytest.raises(Failed, match="first"):
        run_schedule(FORK, run)
    assert ran == ["first"]


def test_of_two_errors_the_first_is_raised():
    both = threading.Barrier(2, timeout=PATIENCE)
    begun = threading.Event()

    def run(part):
        if part == "first":
            return
        both.wait()
        if part == "main":
            begun.wait(PATIENCE)
            time.sleep(0.2)
        begun.set()
        raise Failed(part)

    with pytest.raises(Failed, match="aside"):
        run_schedule(FORK, run)
