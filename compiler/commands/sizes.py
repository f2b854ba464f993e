"""Sizes in bytes, as people write them on a command line."""

from __future__ import annotations

import re

_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def read_size(text: str) -> int:
    """The bytes that `5GiB` is; ValueError with what to write."""
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,3})?) ?([KMG]i?B|B)", text)
    if match is None:
        raise ValueError(f"`{text}` is no size: write e.g. `5GiB` ({', '.join(_BYTES)})")
    return int(float(match[1]) * _BYTES[match[2]])
