"""Solvers use all cores without threads that wait for each other inside an operation."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from edgec.compiler.calibration import cores
from edgec.compiler.calibration.cores import in_order, one_thread_an_operation
from edgec.compiler.ir.module import Module
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.quantize import Quantize


def test_results_come_in_order_and_few_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cores", lambda: 3)
    taken, most = [], 0

    def items() -> Iterator[int]:
        for i in range(20):
            taken.append(i)
            yield i

    for at, made in enumerate(in_order(lambda i: (time.sleep(0.002 * (i % 3)), i)[1], items())):
        assert made == at
        most = max(most, len(taken) - at)
    assert most == 4, "three under way or waiting, and the one that is handed out"


def test_a_failure_is_raised_where_its_result_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cores", lambda: 2)
    made = in_order(lambda i: 1 // (i - 2), range(6))
    assert [next(made), next(made)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_work_records_gradients_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cores", lambda: 2)
    weight = torch.ones(3, requires_grad=True)
    assert all(x.requires_grad for x in in_order(lambda i: weight * i, range(3)))
    with torch.no_grad():
        assert not any(x.requires_grad for x in in_order(lambda i: weight * i, range(3)))


def test_inside_an_operation_is_one_thread_and_outside_as_before() -> None:
    torch.set_num_threads(2)
    mode = torch.backends.mkldnn.matmul.fp32_precision
    with one_thread_an_operation():
        assert torch.get_num_threads() == 1
        with one_thread_an_operation():
            pass
        assert torch.get_num_threads() == 1
        assert set(in_order(lambda _: torch.get_num_threads(), range(4))) == {1}
        a, b = torch.randn(300, 400), torch.randn(400, 500)
        torch.testing.assert_close(a @ b, (a.double() @ b.double()).float(), rtol=1e-4, atol=1e-4)
    assert torch.get_num_threads() == 2
    assert torch.backends.mkldnn.matmul.fp32_precision == mode


def _cpu_seconds_of_threads() -> float:
    """Of all threads of this process but the calling one."""
    total = 0.0
    for thread in os.listdir("/proc/self/task"):
        if int(thread) != threading.get_native_id():
            fields = Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _busy() -> None:
    while True:
        pass


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="counts the threads of /proc")
def test_no_thread_computes_while_the_solver_waits() -> None:
    """Operations run in the threads that ask for them: no other computes, or spins."""
    torch.set_num_threads(4)
    x = torch.randn(400, 400)
    with one_thread_an_operation():
        before = _cpu_seconds_of_threads()
        for _ in range(60):
            (x @ x).softmax(1)
            time.sleep(0.005)
        spent = _cpu_seconds_of_threads() - before
    assert spent < 0.03, f"{spent:.2f} s in threads of torch"


def test_beside_two_busy_processes_a_solve_takes_its_share(draft: Module, scope: Scope) -> None:
    """Of CPU time it takes as much as alone: what it did in addition would be spinning."""

    def cpu_of_a_solve() -> float:
        begun = time.process_time()
        Quantize(weights="int4", method="gptq").run(draft.clone(), scope)
        return time.process_time() - begun

    cpu_of_a_solve()
    os.environ["EDGEC_CACHE"] += ".alone"
    alone = cpu_of_a_solve()
    others = [multiprocessing.get_context("spawn").Process(target=_busy, daemon=True) for _ in range(2)]
    for one in others:
        one.start()
    try:
        os.environ["EDGEC_CACHE"] += ".beside"
        beside = cpu_of_a_solve()
    finally:
        for one in others:
            one.kill()
    assert beside < 2.5 * alone + 0.5
