"""Blocks that a file is made of, made by threads beside the one that writes them, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_AHEAD = 2  # blocks under way: one more than is waited for, because each is held in memory

Item = TypeVar("Item")
Made = TypeVar("Made")


def made_ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """`make(item)` of each item, the next ones on their way; what one raises is raised in its turn."""
    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="blocks") as threads:
        under_way: deque[Future[Made]] = deque()
        try:
            for item in items:
                under_way.append(threads.submit(make, item))
                if len(under_way) > _AHEAD:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for one in under_way:
                one.cancel()
