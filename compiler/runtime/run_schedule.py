"""Run the parts of a bucket along its schedule: one thread per lane; a transfer waits for the future of its maker.

    lane npu   [ npu0 ] [   npu2   ] ......... [ npu4 ]
    lane cpu   ........ [ cpu1 ] [ cpu3 ] ..... ^ waits for npu2 and cpu3

A schedule of one lane runs in the caller's thread. When a part raises, parts that have not begun never do, and its
error is raised here once those that run have ended.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor, wait
from contextlib import suppress

from ..bundle.schedule import Schedule


def run_schedule(schedule: Schedule, run_part: Callable[[str], None]) -> None:
    """Call `run_part(name)` once for every part, after the parts that it waits for; the first error of any is raised.

    With several lanes `run_part` is called from several threads.
    """
    if len(schedule.lanes) == 1:
        for part in schedule.parts:
            run_part(part)
        return
    _Lanes(schedule, run_part).run()


class _Stopped(Exception):
    """A part of another lane has failed."""


class _Lanes:
    def __init__(self, schedule: Schedule, run_part: Callable[[str], None]) -> None:
        self._lanes, self._run_part = list(schedule.lanes.values()), run_part
        self._makers = schedule.makers()
        self._done: dict[str, Future[None]] = {part: Future() for part in schedule.parts}
        self._errors: list[BaseException] = []  # in the order they happened

    def run(self) -> None:
        with ThreadPoolExecutor(len(self._lanes), thread_name_prefix="lane") as threads:
            running = [threads.submit(self._lane, lane) for lane in self._lanes]
            try:
                wait(running)
            except BaseException:  # the user's Ctrl-C: lanes end with the part they are at
                self._stop()
                raise
        if self._errors:
            raise self._errors[0]

    def _lane(self, lane: tuple[str, ...]) -> None:
        try:
            for part in lane:
                self._step(part)
        except _Stopped:
            return
        except BaseException as error:
            self._errors.append(error)
            self._stop()

    def _step(self, part: str) -> None:
        for maker in self._makers[part]:
            self._done[maker].result()
        if self._done[part].done():
            raise _Stopped
        self._run_part(part)
        try:
            self._done[part].set_result(None)
        except InvalidStateError:
            raise _Stopped from None

    def _stop(self) -> None:
        """Fail every part that has not ended, so that nobody waits for it and it does not begin."""
        for future in self._done.values():
            with suppress(InvalidStateError):
                future.set_exception(_Stopped())
