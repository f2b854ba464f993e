"""Workers that are forked from a process which has imported what they need."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from edgec.compiler.actions.action import Action
from edgec.compiler.actions.local import LocalRunner
from edgec.compiler.diagnostics.diagnostic import EngineError
from edgec.compiler.emit.child_process import Child
from edgec.compiler.emit.fork_server import workers

WORKER = "tests_fork_worker"
CODE = """
import os
state = []
def end_with(parent): ...
def pid(): return os.getpid(), os.getppid()
def seen(more):
    state.append(more)
    return state
def die(): os.kill(os.getpid(), 9)
def run(description, store): return os.getppid()
HANDLERS = {"run": run, "pid": pid, "seen": seen, "die": die}
if __name__ == "__main__":
    from edgec.compiler.emit.child_process import serve
    serve(HANDLERS)
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of the worker above."""
    (tmp_path / f"{WORKER}.py").write_text(CODE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with workers(WORKER) as made:
        if made is None:
            pytest.skip("this system has no pidfd_open")
        yield made


def test_workers_share_imports_and_nothing_else(server):
    with Child(WORKER, what="one", server=server) as one, Child(WORKER, what="two", server=server) as two:
        assert one.call("seen", more=1) == [1]
        assert one.call("seen", more=2) == [1, 2]
        assert two.call("seen", more=3) == [3]
        (own, parent), (other, _) = one.call("pid"), two.call("pid")
        assert own == one.pid != other == two.pid
        assert parent == server.pid


def test_a_worker_that_dies_is_named_with_its_signal(server):
    killed = pytest.raises(EngineError, match="the worker was killed by SIGKILL in `die`")
    with Child(WORKER, what="the worker", server=server) as one, killed:
        one.call("die")
    with Child(WORKER, what="the next", server=server) as two:
        assert two.call("seen", more=1) == [1]


def test_a_worker_ends_when_it_is_closed(server):
    one = Child(WORKER, what="one", server=server)
    pid, _ = one.call("pid")
    one.close()
    assert not _there(pid)


def test_an_action_runs_in_a_process_of_its_own_where_the_server_is_gone(server):
    runner = LocalRunner(WORKER, server=server)
    assert runner.run(Action("emit", "a", {})) == server.pid  # the worker says who its parent is
    os.kill(server.pid, signal.SIGKILL)
    assert runner.run(Action("emit", "a", {})) == os.getpid()


def test_the_worker_of_actions_ends_with_the_server():
    with workers("edgec.compiler.commands.action_worker") as server:
        if server is None:
            pytest.skip("this system has no pidfd_open")
        child = Child("", what="an action", server=server)
        assert _there(child.pid)
        os.kill(server.pid, signal.SIGKILL)
        end = time.monotonic() + 30
        while _there(child.pid) and time.monotonic() < end:
            time.sleep(0.1)
        assert not _there(child.pid)
        child.close()


def test_a_system_without_handles_of_processes_has_no_server(monkeypatch):
    monkeypatch.delattr(signal, "pidfd_send_signal", raising=False)
    with workers(WORKER) as server:
        assert server is None
    assert sys.modules.get(WORKER) is None


def _there(pid: int) -> bool:
    """Whether a process runs: an ended one may wait for its parent."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
