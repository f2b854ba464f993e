"""All cores for torch, without threads that wait for each other inside an operation.

torch splits every operation that is large enough between OpenMP threads. They meet at its end, thousands of times a
second, and spin while they wait: beside other busy processes a thread that has to wait for its core holds up all others
each time. Here an operation runs on one thread, and whole batches of windows and whole runs of rows are spread over the
cores instead. Pieces are as large on every machine and come back in their order, so that sums do not depend on it.

Float32 products go to oneDNN where it is as exact: the library that torch asks by itself reaches half the rate on
processors that are not Intel's.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Made = TypeVar("Made")

_MOST = 8  # more batches at a time would take more memory than they save time
_EXACT = 1e-5  # relative error of a float32 product of 256 terms; bfloat16 inside would give 2e-3
_guard = threading.Lock()
_users = 0
_precision = "ieee"  # of float32 products before the first user came


def cores() -> int:
    """The cores that this process may use."""
    return min(_MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@contextlib.contextmanager
def one_thread_an_operation() -> Iterator[None]:
    """Inside, the calling thread's operations run on one thread each; `in_order` brings the other cores in."""
    global _users, _precision
    mode: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue] - not in its stubs
    threads = torch.get_num_threads()  # threads: a setting of each thread
    torch.set_num_threads(1)
    with _guard:
        if not _users:
            _precision = mode.fp32_precision
        _users += 1
        if _exact_in_onednn():
            mode.fp32_precision = "bf16"
    try:
        yield
    finally:
        with _guard:
            _users -= 1
            if not _users:
                mode.fp32_precision = _precision
        torch.set_num_threads(threads)


@cache
def _exact_in_onednn() -> bool:
    """Whether oneDNN computes in float32 though it is allowed bfloat16, which is faster on some processors only."""
    if not torch.backends.mkldnn.is_available():
        return False
    mode: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue] - not in its stubs
    chance = torch.Generator().manual_seed(0)
    a, b = torch.randn(256, 256, generator=chance), torch.randn(256, 256, generator=chance)
    exact, before = a.double() @ b.double(), mode.fp32_precision
    try:
        mode.fp32_precision = "bf16"
        got = a @ b
    except RuntimeError:
        return False
    finally:
        mode.fp32_precision = before
    return float((got - exact).norm() / exact.norm()) < _EXACT


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), "solver", initializer=lambda: torch.set_num_threads(1))


def in_order(work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """`work` of each item, as many at a time as there are cores, results in the order of the items.

    Not more than one a core is under way or waits to be fetched. Gradients are recorded if they are where this is
    called. Work that is spread already (it runs in one of these threads) may not be spread again.
    """
    if cores() == 1 or torch.cuda.is_available():
        yield from map(work, items)
        return
    graded, waiting = torch.is_grad_enabled(), deque[Future[Made]]()

    def run(item: Item) -> Made:
        with torch.set_grad_enabled(graded):
            return work(item)

    try:
        for item in items:
            if len(waiting) == cores():
                yield waiting.popleft().result()
            waiting.append(_pool().submit(run, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for one in waiting:
            one.cancel()
