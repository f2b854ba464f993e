"""A process that has imported what workers need, and forks one each time it is asked: the start of a worker is free.

    edgec ──(socket, log)──▶ server ──fork──▶ worker, which serves on that socket as one of `child_process` does

Only imports are shared: a worker begins with nothing else, and the server has no thread of its own and no work. It ends
with edgec, and its workers with it (they look whether their parent is there). Linux only; `workers` gives None where
the system lacks what this needs.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from .child_process import QUIET, serve

_FORK, _WAIT = b"f", b"w"
_REPLY = struct.Struct("<q")


class Forked:
    """A worker that the server forked, with what a `subprocess.Popen` has of it."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid, self._server = pid, server
        self._handle = os.pidfd_open(pid)
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit status, negative for a signal, as soon as it has ended; None if the server that knew it is gone."""
        if self._handle < 0:
            return self._code
        ended, _, _ = select.select([self._handle], [], [], timeout)
        if not ended:
            raise subprocess.TimeoutExpired("a worker", timeout or 0.0)
        os.close(self._handle)
        self._handle, self._code = -1, self._server.status(self.pid)
        return self._code

    def kill(self) -> None:
        """End it at once."""
        if self._handle >= 0:
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)


class ForkServer:
    """The server, starting: it answers when its imports are done. Safe to use from several threads."""

    def __init__(self, module: str, imports: Sequence[str] = (), more: Mapping[str, str] | None = None) -> None:
        """`more`: variables of the server and of all its workers."""
        self._channel, theirs = socket.socketpair()
        self._lock = threading.Lock()
        command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno()), module, *imports]
        quiet = subprocess.DEVNULL
        env = {**os.environ, **QUIET, **(more or {})}
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=quiet, stdout=quiet, stderr=quiet, pass_fds=(theirs.fileno(),), env=env
            )

    @property
    def pid(self) -> int:
        """The server's own process."""
        return self._process.pid

    def fork(self, channel: int, log: int) -> Forked:
        """A worker that serves on the socket `channel` and prints to the file `log`.

        OSError or EOFError if the server is gone.
        """
        with self._lock:
            socket.send_fds(self._channel, (_FORK,), (channel, log))
            return Forked(self, self._reply())

    def status(self, pid: int) -> int | None:
        """How a worker that has ended did so; None if the server is gone."""
        try:
            with self._lock:
                self._channel.sendall(_WAIT + _REPLY.pack(pid))
                return self._reply()
        except (OSError, EOFError):
            return None

    def close(self) -> None:
        """End the server; workers that are left end too."""
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def _reply(self) -> int:
        return _REPLY.unpack(_exactly(self._channel, _REPLY.size))[0]


def can_fork() -> bool:
    """Whether the system has what a server needs."""
    return hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal")


@contextlib.contextmanager
def workers(module: str, imports: Sequence[str] = ()) -> Iterator[ForkServer | None]:
    """For the block, a server of workers that serve `module.HANDLERS`, with `imports` imported too; it imports while
    the block goes on. None where the system lacks what it needs.
    """
    if not can_fork():
        yield None
        return
    server = ForkServer(module, imports)
    try:
        yield server
    finally:
        server.close()


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = channel.recv(size - len(data))
        if not more:
            raise EOFError("the server of workers has ended")
        data += more
    return data


def _main(channel: socket.socket, module: str, imports: Sequence[str]) -> None:
    """Fork a worker for each request, and say how those that have ended did so, until edgec's end closes."""
    worker = importlib.import_module(module)
    for name in imports:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that workers do not write into what they share
    while True:
        asked, fds, _, _ = socket.recv_fds(channel, 1, 2)
        if not asked:
            return
        if asked == _WAIT:
            pid = _REPLY.unpack(_exactly(channel, _REPLY.size))[0]
            channel.sendall(_REPLY.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
            continue
        parent = os.getpid()
        if (pid := os.fork()) == 0:
            _become_worker(worker, channel, fds, parent)
        for one in fds:
            os.close(one)
        channel.sendall(_REPLY.pack(pid))


def _become_worker(worker: Any, server: socket.socket, fds: Sequence[int], parent: int) -> NoReturn:
    """Serve in this process, which was forked a moment ago, and end it as any other."""
    server.close()
    channel, log = fds
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    worker.end_with(parent)
    code = 1
    try:
        serve(worker.HANDLERS, socket.socket(fileno=channel))
        code = 0
    finally:
        atexit._run_exitfuncs()
        os._exit(code)  # to take down all that was imported costs as much as importing it


if __name__ == "__main__":
    _main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], sys.argv[3:])
