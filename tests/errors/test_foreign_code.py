"""Threads in foreign code at the same time: the process is fenced as long as one is, and its own again afterwards."""

from __future__ import annotations

import os
import sys
import threading

import pytest
from edgec.compiler.diagnostics.foreign_code import ForeignFailure, foreign_code


@pytest.mark.parametrize("first_to_leave", [0, 1])
def test_the_last_thread_takes_the_fence_down(first_to_leave: int) -> None:
    before = os._exit, sys.stdout
    inside = [threading.Event(), threading.Event()]
    leave = [threading.Event(), threading.Event()]

    def work(number: int) -> None:
        with foreign_code():
            inside[number].set()
            leave[number].wait(10)

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for number, thread in enumerate(threads):
        thread.start()
        inside[number].wait(10)
    leave[first_to_leave].set()
    threads[first_to_leave].join()
    assert sys.stdout is sys.stderr
    with pytest.raises(SystemExit, match=r"os\._exit"):
        os._exit(7)
    leave[1 - first_to_leave].set()
    threads[1 - first_to_leave].join()
    assert (os._exit, sys.stdout) == before


def test_what_it_raises_is_its_failure() -> None:
    with pytest.raises(ForeignFailure, match="ZeroDivisionError"), foreign_code():
        1 / 0  # noqa: B018
    with pytest.raises(ForeignFailure, match=r"os._exit\(3\)"), foreign_code():
        os._exit(3)
