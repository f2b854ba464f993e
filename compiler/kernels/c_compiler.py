"""The C compiler of this machine, which builds edgec's own kernels into the cache at their first use."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess

_SECONDS = 600  # for a compiler that does not come to an end


def compiler() -> list[str] | None:
    """The words that call it: what `CC` names, else cc, gcc or clang; None where there is none."""
    named = shlex.split(os.environ.get("CC", ""))
    candidates = [named] if named else [["cc"], ["gcc"], ["clang"]]
    return next((one for one in candidates if shutil.which(one[0])), None)


def called(line: list[str]) -> str:
    """What a call of it prints; OSError or SubprocessError where it fails or does not come to an end."""
    words = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "timeout": _SECONDS}
    return subprocess.run(line, check=True, **words).stdout


def reason(error: Exception) -> str:
    """Why a call failed: the last line the compiler said."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in (error.stderr or "").splitlines() if line.strip()]
        return lines[-1] if lines else f"it ends with {error.returncode}"
    return str(error)
