"""Pages of the errors of plug-ins: `codes.toml` of each package that an entry point of `edgec.codes` names.

    [project.entry-points."edgec.codes"]
    plain = "edgec_plain"

No package is imported to read its pages.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

from .diagnostic import Diagnostic
from .explain import pages_fault
from .plugin_door import entries

GROUP = "edgec.codes"


@functools.cache
def page_files() -> list[Path]:
    """The files of all installed plug-ins that can be used."""
    files = [_file(entry) for entry in _entries()]
    return [file for file in files if file is not None and pages_fault(file) is None]


def broken_pages() -> Iterator[Diagnostic]:
    """What is wrong with the other files."""
    for entry in _entries():
        file = _file(entry)
        fault = f"there is no package `{entry.module}`" if file is None else pages_fault(file)
        if fault is not None:
            message = f"the error pages `{entry.name}` are installed but broken: {fault}"
            yield Diagnostic("E0118", message, help=f"they come with `{entry.dist.name}`" if entry.dist else None)


def _entries() -> list[EntryPoint]:
    found = (entry for alike in entries(GROUP).values() for entry in alike)
    return sorted(found, key=lambda entry: (entry.name, entry.value))


def _file(entry: EntryPoint) -> Path | None:
    package, *inner = entry.module.split(".")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0], *inner, "codes.toml")
