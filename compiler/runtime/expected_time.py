"""What a run will take, said before it starts, where an engine is slow on this machine."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..bundle.manifest import Manifest
from .engines import target_of

if TYPE_CHECKING:
    from ..emit.engine_protocols import CallTime

_LONG = 2.0  # seconds of a call from which it is said


def expected_time(manifest: Manifest, name: str, step: int | None = None) -> str | None:
    """A sentence on decoder `name`: seconds per call of the bucket that new tokens go through (of `step` tokens, or the
    smallest), and of the largest, that a prompt goes through. None where no call is long.
    """
    buckets = [row for row in manifest.buckets(name) if row["tokens"] is not None]
    if not buckets:
        return None
    small = min(buckets, key=lambda row: (row["tokens"] != step, row["tokens"], row["context"]))
    large = max(buckets, key=lambda row: (row["tokens"], -row["context"]))
    times = _times(manifest, small)
    seconds = sum(time.seconds for time in times)
    if seconds < _LONG:
        return None
    whole = _times(manifest, large)
    prompt = f", {_about(whole)} for each {large['tokens']} of the prompt" if large is not small else ""
    each = "a token" if small["tokens"] == 1 else f"a call of {small['tokens']} tokens"
    measured = all(time.measured for time in (*times, *whole))
    how = "as last measured here" if measured else "estimated from the size of its binary, for an idle machine"
    return f"`{name}` takes about {_about(times)} {each} in {times[0].engine}{prompt} ({how})"


def _times(manifest: Manifest, bucket: dict[str, Any]) -> list[CallTime]:
    """Of each part; parts that share a file, whose size tells nothing of one of them, have equal shares of it."""
    entries = [manifest.part(part) for part in bucket["parts"]]
    sharing = Counter(entry.get("file") for entry in entries)
    found = []
    for entry in entries:
        time = target_of(entry).call_time(manifest.bundle, entry, bucket["name"], bucket["tokens"])
        if time is not None:
            share = 1 if time.measured else sharing[entry.get("file")]
            found.append(replace(time, seconds=time.seconds / share))
    return found


def _about(times: list[CallTime]) -> str:
    seconds = sum(time.seconds for time in times)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
