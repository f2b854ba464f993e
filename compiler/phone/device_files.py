"""Which files of a bundle one of its devices needs.

all files  -  those of other chips  -  what only a PC reads (the report, graphs for its checks, sources)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .device_sources import ANDROID, RUNNER_SOURCE

RUN_SCRIPT = "device/run.sh"
_OF_A_PC = ("report.html", RUNNER_SOURCE)
_OF_A_PC_ENDS = (".graphs.zip", ".plain.onnx")
MANIFEST_FILES = ("manifest.json", "manifest.sha256")


def device_files(data: Mapping[str, Any], device: str) -> list[str]:
    """Paths in the bundle that `device`, by its name in the manifest, needs; the manifest is the last.

    `data`: the manifest.
    """
    others = set(_of_other_chips(data, device))
    names = [name for name in data["files"] if name not in others]
    reader = (data.get("packed") or {}).get("reader")
    names = [name for name in names if name not in (*_OF_A_PC, reader) and not name.endswith(_OF_A_PC_ENDS)]
    names = [name for name in names if not name.startswith(ANDROID)]
    return [*names, *MANIFEST_FILES]


def libraries(data: Mapping[str, Any], device: str) -> list[dict[str, str]]:
    """The rows of `libraries` for `device`: those of its own NPU and those of every phone, optional ones too."""
    arch = next(one.get("arch") for one in data["devices"] if one["name"] == device)
    return [row for row in data["libraries"] if row.get("arch") in (None, arch)]


def is_needed(row: Mapping[str, str]) -> bool:
    """Whether nothing runs without this library."""
    return row.get("optional") != "true"


def _of_other_chips(data: Mapping[str, Any], device: str) -> Iterator[str]:
    """Files below the folder of another chip, which nothing of `device` is in."""
    own, folders = set[str](), set[str]()
    for part in data["parts"].values():
        for chip, entry in part.get("chips", {}).items():
            folder = entry["file"].rpartition("/")[0]
            (own if chip == device else folders).add(folder)
    for folder in folders - own:
        yield from (name for name in data["files"] if name.startswith(f"{folder}/"))
