"""A module whose names are imported when they are first used: `import edgec` loads nothing else."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy(module: dict[str, Any], places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for the module with these globals; `places`: name -> where below edgec.compiler.

    A place is a module, or `module:name` for what is called otherwise there.
    """

    def getattribute(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module `{module['__name__']}` has no attribute `{name}`")
        place, _, other = places[name].partition(":")
        module[name] = getattr(importlib.import_module(f"edgec.compiler.{place}"), other or name)
        return module[name]

    def directory() -> list[str]:
        return sorted({*places, *(name for name in module if not name.startswith("_"))})

    return getattribute, directory
