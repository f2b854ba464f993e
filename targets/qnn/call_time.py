"""How long a call takes in the HTP emulator: as it was when last measured on this machine, or estimated from its bytes.

    seconds = binary's MB * (0.2 + 0.01 * tokens)       an x86-64 core with nothing else to do

The emulator computes every weight again for each call: 0.13 µs a weight of MatMulNBits at one token, on one core.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...compiler.emit.engine_protocols import CallTime
from ...compiler.files import cache

KIND = "qnn-seconds"
_PER_MB, _PER_MB_AND_TOKEN = 0.2, 0.01
_LONG = 1.0  # seconds from which a call is worth a note


def call_time(bundle: Path, part: Mapping[str, Any], bucket: str, tokens: int) -> CallTime:
    """Of one graph of a part; `tokens`: positions it computes."""
    noted = cache.read_note(KIND, _key(part, bucket))
    if noted is not None:
        return CallTime(float(noted), "the HTP emulator", measured=True)
    size = (bundle / part["file"]).stat().st_size / 1e6
    return CallTime(size * (_PER_MB + _PER_MB_AND_TOKEN * tokens), "the HTP emulator", measured=False)


def remember(part: Mapping[str, Any], bucket: str, seconds: float) -> None:
    """Keep what a call took, if it was long: the next run says it beforehand."""
    if seconds >= _LONG:
        with contextlib.suppress(OSError):
            cache.write_note(KIND, _key(part, bucket), f"{seconds:.1f}")


def _key(part: Mapping[str, Any], bucket: str) -> str:
    graph = part["graphs"][bucket]["details"]["target_graph"]
    return hashlib.sha256(f"{part['details']['twins']} {graph}".encode()).hexdigest()
