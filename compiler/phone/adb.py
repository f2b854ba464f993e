"""Android's debug bridge: the `adb` on PATH, one phone, and what its commands say.

Every call has a time limit, and a call that fails is an error with adb's own last words.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..diagnostics.diagnostic import EngineError, fail
from ..diagnostics.visible import visible
from ..diagnostics.wording import join_or

_QUICK, _LONG = 60.0, 3600.0  # seconds that a question, and the copy of a file, may take
_STATES = {
    "unauthorized": "allow USB debugging in the dialog on its screen",
    "offline": "plug it in again, or run `adb reconnect`",
    "no permissions": "add yourself to the group `plugdev`, or install adb's udev rules",
}


class Phone:
    """One phone by its serial number."""

    def __init__(self, adb: str, serial: str) -> None:
        self._adb, self.serial = adb, serial

    def shell(self, command: str, what: str) -> str:
        """What a shell command on the phone prints; `what` it is for, in the message of a failure."""
        return _run([self._adb, "-s", self.serial, "shell", command], what, _QUICK)

    def push(self, local: Path, remote: str) -> None:
        """Copy a file to the phone."""
        _run([self._adb, "-s", self.serial, "push", str(local), remote], f"copy `{local.name}`", _LONG)

    def property(self, name: str) -> str:
        """A system property; empty if the phone has none of this name."""
        return self.shell(f"getprop {name}", f"ask for `{name}`").strip()

    def free_bytes(self, folder: str) -> int | None:
        """Free bytes on the file system of `folder`, None where `df` prints what is not understood."""
        lines = self.shell(f"df -k {folder}", "ask for free space").splitlines()
        fields = lines[-1].split() if len(lines) > 1 else []
        # Filesystem 1K-blocks Used Available Use% Mounted on; a long name may have a line of its own
        numbers = [int(field) for field in fields if field.isdecimal()]
        return numbers[-1] * 1024 if len(numbers) >= 3 else None


def connect(serial: str | None = None) -> Phone:
    """The phone that `serial` names, or the only one there is.

    E0940 without an adb, E0941 without that phone or one that answers, E0942 where several are there.
    """
    adb = shutil.which("adb")
    if adb is None:
        fail(
            "E0940", "there is no `adb` on PATH", help="install Android's platform-tools, and put their folder on PATH"
        )
    found = _devices(adb)
    ready = [name for name, state in found if state == "device"]
    if serial is not None:
        state = dict(found).get(serial)
        if state is None:
            there = f"there {'is' if len(found) == 1 else 'are'} {_listed(found)}" if found else "no phone is connected"
            fail("E0941", f"no phone `{visible(serial)}` is connected", help=there)
        return Phone(adb, serial) if state == "device" else _refuse(serial, state)
    if len(ready) > 1:
        listed = join_or([f"`{visible(name)}`" for name in ready], "and")
        fail(
            "E0942", f"{len(ready)} phones are connected: {listed}", help=f"choose one: `--serial {visible(ready[0])}`"
        )
    if ready:
        return Phone(adb, ready[0])
    if found:
        _refuse(*found[0])
    fail("E0941", "no phone is connected", help="plug one in with USB debugging on; `adb devices` lists it")


def _listed(found: Sequence[tuple[str, str]]) -> str:
    return join_or([f"`{visible(name)}`" for name, _ in found], "and")


def _refuse(serial: str, state: str) -> Phone:
    help = _STATES.get(state, "`adb devices` says more")
    fail("E0941", f"the phone `{visible(serial)}` does not answer: adb calls it `{visible(state)}`", help=help)


def _devices(adb: str) -> list[tuple[str, str]]:
    """Serial number and state of every phone adb knows."""
    rows = []
    for line in _run([adb, "devices"], "list phones", _QUICK).splitlines():
        name, tab, state = line.partition("\t")
        if tab and name.strip():
            rows.append((name.strip(), "no permissions" if state.startswith("no permissions") else state.strip()))
    return rows


def _run(command: Sequence[str], what: str, seconds: float) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        fail("E0946", f"adb could not {what}: no answer in {seconds:.0f} s", help=_AGAIN, kind=EngineError)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        fail("E0946", f"adb could not {what}: {reason}", help=_AGAIN, kind=EngineError)
    if done.returncode:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        last = visible(said[-1]) if said else f"exit code {done.returncode}"
        fail("E0946", f"adb could not {what}: {last}", help=_AGAIN, kind=EngineError)
    return done.stdout.decode("utf-8", "replace")


_AGAIN = "see that the phone is unlocked and plugged in, then run the command again"
