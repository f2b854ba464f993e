"""Sizes in bytes and times in seconds, as people write them on a command line."""

from __future__ import annotations

import re

_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def read_size(text: str) -> int:
    """The bytes that `5GiB` is; ValueError with what to write."""
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,3})?) ?([KMG]i?B|B)", text)
    if match is None:
        raise ValueError(f"`{text}` is no size: write e.g. `5GiB` ({', '.join(_BYTES)})")
    return int(float(match[1]) * _BYTES[match[2]])


_SECONDS = {"s": 1, "min": 60, "h": 3600}


def read_duration(text: str) -> float:
    """The seconds that `10min` is; ValueError with what to write."""
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?(s|min|h)", text)
    if match is None:
        raise ValueError(f"`{text}` is no time: write e.g. `10min` ({', '.join(_SECONDS)})")
    return float(match[1]) * _SECONDS[match[2]]
