"""The seal of a cache entry: which files it has, with size and sha256, and whose entry it is.

    seal.json    {"entry": "solve/3f…", "files": {"q.bin": [65536, "9c…"]}}
                 sha256 of the line above

It is written last. An entry whose files differ from the seal, in whatever way, is not believed. A seal that was cut or
edited, and a folder that was moved to another entry's place, do not fit either.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

SEAL = "seal.json"


def digest_file(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_seal(folder: Path, entry: str) -> None:
    """Seal the files that lie in `folder` as those of the entry `kind/key`."""
    files = {name: [(folder / name).stat().st_size, digest_file(folder / name)] for name in file_names(folder)}
    (folder / SEAL).write_text(sealed_line({"entry": entry, "files": files}), encoding="ascii")


def sealed_line(value: dict[str, object]) -> str:
    """A line of JSON and its sha256."""
    line = json.dumps(value, sort_keys=True)
    return f"{line}\n{hashlib.sha256(line.encode()).hexdigest()}\n"


def opened_line(text: bytes) -> dict[str, object] | None:
    """What `sealed_line` was given; None if the text is not whole."""
    line, _, digest = text.partition(b"\n")
    if hashlib.sha256(line).hexdigest().encode() + b"\n" != digest:
        return None
    value = json.loads(line)
    return value if isinstance(value, dict) else None


def damage(folder: Path, entry: str) -> str | None:
    """What of the entry does not fit its seal, in words; None if everything does. Reads every file once."""
    try:
        sealed = opened_line((folder / SEAL).read_bytes())
    except FileNotFoundError:
        return "it has no seal"
    if sealed is None or not isinstance(files := sealed.get("files"), dict):
        return "its seal is not whole"
    if sealed.get("entry") != entry:
        return "it is the entry of another key"
    found = file_names(folder)
    if others := sorted(set(found) ^ set(files)):
        return f"`{others[0]}` is {'missing' if others[0] in files else 'no file of it'}"
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return f"`{name}` has another size"
        if digest_file(path) != digest:
            return f"`{name}` has other bytes"
    return None


def facts(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """What changes when a file of the entry does: names, sizes, times of change, file numbers."""
    listed = []
    for name in (*file_names(folder), SEAL):
        stat = os.stat(folder / name)
        listed.append((name, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return tuple(listed)


def file_names(folder: Path) -> list[str]:
    """Every name in the entry, those in its folders too, but the seal's."""
    names = []
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        names += [os.path.relpath(os.path.join(root, name), folder) for name in (*files, *links)]
    return sorted(name for name in names if name != SEAL)
