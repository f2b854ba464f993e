"""The remote call to engines: arrays arrive whole, and every way to die names engine, call and cause."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import EdgecError, EngineError, PlanError
from edgec.compiler.emit.child_process import Child

WORKER = """
    import os, signal, sys, time
    from edgec.compiler.emit.child_process import serve
    from edgec.compiler.diagnostics.diagnostic import fail

    def crash():
        print("about to fall", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)

    def refuse():
        fail("E0703", "no such thing")

    serve({
        "twice": lambda x, scale=2: {"y": x * scale, "n": x.size},
        "crash": crash, "leave": lambda: sys.exit(3), "sleep": lambda: time.sleep(60),
        "raises": lambda: 1 // 0, "refuse": refuse, "telemetry": lambda: os.environ["ORT_DISABLE_TELEMETRY"],
    })
"""


@pytest.fixture
def child(tmp_path):
    (tmp_path / "worker_under_test.py").write_text(textwrap.dedent(WORKER))
    env = {"PYTHONPATH": str(tmp_path)}
    with Child("worker_under_test", what="the engine running `part`", env=env, timeout=20) as child:
        yield child


@pytest.mark.parametrize("shape", [(0,), (3, 5), (1000, 1000)])
def test_arrays_go_and_come_back(child, shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    answer = child.call("twice", x=x)
    assert answer["n"] == x.size
    np.testing.assert_array_equal(answer["y"], 2 * x)
    answer["y"][...] = 0  # what came back is ours to write
    np.testing.assert_array_equal(child.call("twice", x=x[::2, ...], scale=3)["y"], 3 * x[::2])


def test_telemetry_is_off(child):
    assert child.call("telemetry") == "1"


def test_a_crash_names_engine_call_signal_and_last_words(child, golden_error):
    with pytest.raises(EngineError) as caught:
        child.call("crash")
    golden_error("E0990", caught.value)
    with pytest.raises(EngineError, match="had ended"):
        child.call("twice", x=np.ones(1))


def test_leaving_is_an_error_with_the_status(child):
    with pytest.raises(EngineError, match="exited with status 3"):
        child.call("leave")


def test_silence_is_an_error(child, golden_error):
    child._channel.socket.settimeout(0.5)
    with pytest.raises(EngineError) as caught:
        child.call("sleep")
    golden_error("E0991", caught.value)


def test_an_exception_in_the_worker_keeps_it_alive(child, golden_error):
    with pytest.raises(EngineError, match="ZeroDivisionError") as caught:
        child.call("raises")
    first, _, rest = str(caught.value).partition("\n")
    trace = rest.partition("\n  = help:")[0]
    assert "ZeroDivisionError" in trace
    golden_error("E0992", caught.value, hide={trace: "    (the last lines)"})
    assert "failed in `raises`" in first
    assert child.call("telemetry") == "1"


def test_a_diagnostic_raised_in_the_worker_arrives_as_it_was(child):
    with pytest.raises(PlanError) as caught:
        child.call("refuse")
    assert isinstance(caught.value, EdgecError)
    assert (caught.value.diagnostics[0].code, caught.value.diagnostics[0].message) == (
        "E0703",
        "no such thing",
    )


def test_a_worker_that_does_not_exist_is_an_engine_error():
    with (
        Child("edgec.no_such_worker", what="nothing") as child,
        pytest.raises(EngineError, match="no_such_worker"),
    ):
        child.call("anything")
