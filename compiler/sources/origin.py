"""Find the float model that a bundle was made from, which `verify` compares with.

A bundle holds no path of the machine that made it, only what the plan wrote and the hashes of the files. So a compile
leaves a note in the cache, hashes -> folder, and whatever is found is believed only if its files have those hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..diagnostics.diagnostic import fail
from ..files import cache
from .source import Source

_KIND = "sources"


def remember(entry: Mapping[str, Any], path: Path) -> None:
    """Record in the cache where the model of this `inputs` entry is stored on this machine."""
    cache.write_note(_KIND, _key(entry), str(path.resolve()))


def find(model: str, entry: Mapping[str, Any], source: Source, given: Path | None = None) -> Path | None:
    """The model's folder or file: `given`, the path as the plan wrote it from here, or where the compile saw it."""
    if given is not None:
        if difference := _difference(entry, source, given):
            fail("E0930", f"`{given}` is not what `{model}` was compiled from: {difference}")
        return given
    candidates = [Path(entry["source"])]
    noted = cache.read_note(_KIND, _key(entry))
    if noted is not None:
        candidates.append(Path(noted))
    return next((path for path in candidates if _difference(entry, source, path) is None), None)


def _key(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry["files"], sort_keys=True).encode()).hexdigest()


def _difference(entry: Mapping[str, Any], source: Source, path: Path) -> str | None:
    """What of the files the manifest lists is missing or other at `path`; None when all is the same."""
    if not path.exists():
        return "there is no such path"
    for name, facts in entry["files"].items():
        file = source.find(path, name)
        if not file.is_file():
            return f"it has no `{name}`"
        if file.stat().st_size != facts["size"] or cache.digest_file(file) != facts["sha256"]:
            return f"`{name}` differs"
    return None
