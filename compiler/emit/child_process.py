"""Run an engine in a process of its own: a small remote call over a socket pair.

An engine that segfaults, hangs or prints to stdout must not take edgec with it. The parent sends one message a
call and reads one back (`channel`). The child's stdout and stderr go to a temporary file, whose tail is quoted when
it dies. The pair is private to the two processes, so unpickling what comes through it trusts nobody new. The child
leaves when the parent's end closes, whatever the reason.

    child = Child("edgec.targets.mnn.worker", what="MNN running `draft`")
    logits = child.call("forward", ids=[1, 2, 3])        # on the worker's side: serve({"forward": forward})
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from ..diagnostics.diagnostic import EdgecError, EngineError, fail
from .channel import Channel
from .fixed_addresses import fixed_addresses, fixed_environment, one_core

if TYPE_CHECKING:
    from .fork_server import Forked, ForkServer

_FD = "EDGEC_CHILD_FD"
_TAIL_LINES, _TAIL_BYTES = 8, 8192
# of every worker: no telemetry, no buffers, no downloads
QUIET = {"ORT_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


_children: weakref.WeakSet[Child] = weakref.WeakSet()


class Child:
    """A worker process; `what` names the engine and the part in every message about it.

    With `fixed`, its addresses, environment and folder are the same each time and it has one core, for engines whose
    results depend on them; the attribute of that name is False where the system refuses the addresses. With `server`,
    it is forked from that one, which serves `module` and has the environment it was started with.
    """

    def __init__(
        self,
        module: str,
        *,
        what: str,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        fixed: bool = False,
        server: ForkServer | None = None,
    ) -> None:
        self.what = what
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        ours, theirs = socket.socketpair()
        ours.settimeout(timeout)
        self._channel = Channel(ours)
        core: int | None = None
        with theirs:
            if server is not None:
                self.fixed = False
                self._process: subprocess.Popen[bytes] | Forked = server.fork(theirs.fileno(), self._log.fileno())
            else:
                self.fixed, core = self._start(module, theirs.fileno(), env or {}, fixed)
        self._finalizer = weakref.finalize(self, _end, self._process, ours, self._log, core)
        _children.add(self)

    def _start(self, module: str, channel: int, env: Mapping[str, str], fixed: bool) -> tuple[bool, int | None]:
        """Start the process; whether its addresses are fixed, and the lock of its core."""
        # -P: the folder we happen to stand in must not shadow a module the engine imports
        command = [sys.executable, "-P", "-m", module]
        own = {**QUIET, **env, _FD: f"{channel:08}"}
        with contextlib.ExitStack() as held:
            has_addresses = fixed and held.enter_context(fixed_addresses())
            core = held.enter_context(one_core()) if fixed else None
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=(channel,),
                env=fixed_environment(own, command) if fixed else {**os.environ, **own},
                cwd="/" if fixed else None,
            )
        return has_addresses, core

    def call(self, method: str, **kwargs: Any) -> Any:
        """The worker's answer to `method(**kwargs)`; its death, silence and exceptions are an EngineError."""
        if not self.alive:
            fail("E0990", f"{self.what} was called after it had ended", kind=EngineError)
        try:
            self._channel.send((method, kwargs))
            status, value = self._channel.receive()
        except TimeoutError:
            self._timed_out(method)
        except (EOFError, ConnectionError):
            self._died(method)
        if status == "ok":
            return value
        if isinstance(value, EdgecError):
            raise value
        fail("E0992", f"{self.what} failed in `{method}`: {value}{self._tail()}", kind=EngineError)

    @property
    def alive(self) -> bool:
        """Whether it takes calls: it has neither been closed nor found dead."""
        return self._finalizer.alive

    def printed(self) -> str:
        """The end of what the engine has printed so far."""
        size = os.fstat(self._log.fileno()).st_size
        # pread: the descriptor's own position belongs to the child, which is still writing there
        return os.pread(self._log.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode("utf-8", "replace")

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def kill(self) -> None:
        """End the worker at once; a call that waits for it fails."""
        self._process.kill()

    def close(self) -> None:
        """End the worker; calling it twice is harmless."""
        self._finalizer()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._process.kill()  # nobody waits for the answer
        self.close()

    def _died(self, method: str) -> NoReturn:
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            code = None
        tail = self._tail()
        self.close()
        fail("E0990", f"{self.what} {_cause(code)} in `{method}`{tail}", kind=EngineError)

    def _timed_out(self, method: str) -> NoReturn:
        seconds, tail = self._channel.socket.gettimeout(), self._tail()
        self._process.kill()
        self.close()
        fail("E0991", f"{self.what} gave no answer to `{method}` within {seconds:g} s{tail}", kind=EngineError)

    def _tail(self) -> str:
        """The last lines the engine printed, indented under the message."""
        lines = [line for line in self.printed().splitlines() if line.strip()][-_TAIL_LINES:]
        return "; it printed:\n    " + "\n    ".join(lines) if lines else ""


def kill_children() -> None:
    """End all workers at once, whatever they are at: this process ends."""
    for child in list(_children):
        child._process.kill()


def serve(
    handlers: Mapping[str, Callable[..., Any]], connected: socket.socket | None = None, borrow: bool = False
) -> None:
    """Answer calls until the parent hangs up. The worker module's `main`; `connected`: of a process that was forked.

    `borrow`: no handler keeps an array that it is given.
    """
    channel = Channel(connected or socket.socket(fileno=int(os.environ.pop(_FD))))
    while True:
        try:
            method, kwargs = channel.receive(borrow)
        except (EOFError, ConnectionError):
            return
        try:
            answer = ("ok", handlers[method](**kwargs))
        except EdgecError as error:
            answer = ("error", error)
        except Exception as error:  # the boundary: whatever an engine raises becomes a message
            traceback.print_exc()
            answer = ("error", f"{type(error).__name__}: {error}")
        channel.send(answer)


def usable_cores() -> int:
    """The cores that this process and its children may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_memory(more: int) -> None:
    """Let this process take `more` bytes of address space beyond what it has now; an allocation beyond that fails."""
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + more, held + more))


def _cause(code: int | None) -> str:
    if code is None:
        return "stopped answering"
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _end(process: subprocess.Popen[bytes] | Forked, channel: socket.socket, log: Any, core: int | None) -> None:
    channel.close()  # the worker's `serve` returns when it sees this
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    log.close()
    if core is not None:
        os.close(core)  # the core is free again


def peak_rss() -> int:
    """This process's largest resident set so far, in bytes (Linux).

    `ru_maxrss` would be no less than that of the process which this one was started by.
    """
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))
