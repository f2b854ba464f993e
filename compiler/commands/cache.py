"""`edgec cache`: list what the cache holds, check it against its digests, remove what was not used for long."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterable
from typing import Any

from ..diagnostics.diagnostic import Diagnostic
from ..diagnostics.wording import count
from ..files.cache import cache_root
from ..files.cache_contents import Held, contents, prune, remove_damaged
from .sizes import read_size
from .streams import print_json
from .terminal import show

_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def run_cache(arguments: argparse.Namespace) -> int:
    """List, check or prune; exit 3 when `check` found damage, which it removed."""
    if arguments.action == "check":
        return _check(arguments.json)
    if arguments.action == "prune":
        return _prune(arguments)
    held = contents()
    if arguments.json:
        print_json({"cache": str(cache_root()), "kinds": {kind: _facts(some) for kind, some in _kinds(held).items()}})
    else:
        _print(held)
    return 0


def _check(json: bool) -> int:
    total = len(contents())
    found = remove_damaged()
    told = [
        Diagnostic("W0955", f"the cache entry `{held.path}` is damaged ({wrong}); it is removed", severity="warning")
        for held, wrong in found
    ]
    if json:
        rows = [{"kind": held.kind, "key": held.key, "path": str(held.path), "damage": wrong} for held, wrong in found]
        print_json({"cache": str(cache_root()), "entries": total, "damaged": rows})
    show(told)
    if not json:
        print(f"{count(total, 'entry')} checked, {len(found) or 'none'} damaged" + (", removed" * bool(found)))
    return 3 if found else 0


def _prune(arguments: argparse.Namespace) -> int:
    usage = arguments.parser.commands()["cache"]
    if arguments.older is None and arguments.max_size is None:
        usage.error("prune needs --older AGE or --max-size SIZE")
    try:
        older = None if arguments.older is None else _age(arguments.older)
        size = None if arguments.max_size is None else read_size(arguments.max_size)
    except ValueError as error:
        return usage.error(str(error))
    gone = prune(older, size)
    left = contents()
    if arguments.json:
        print_json({"cache": str(cache_root()), "removed": _facts(gone), "left": _facts(left)})
    else:
        print(f"{count(len(gone), 'entry')} removed, {_megabytes(gone)}; {_megabytes(left)} left")
    return 0


def _print(held: list[Held]) -> None:
    print(f"{cache_root()}: {count(len(held), 'entry')}, {_megabytes(held)}")
    kinds = _kinds(held)
    width = max(map(len, kinds), default=0)
    for kind, some in kinds.items():
        facts = _facts(some)
        ages = f"used between {_ago(facts['oldest_use'])} and {_ago(facts['newest_use'])} ago"
        print(f"  {kind:<{width}}  {facts['entries']:>6}  {_megabytes(some):>12}  {ages}")


def _kinds(held: Iterable[Held]) -> dict[str, list[Held]]:
    found: dict[str, list[Held]] = {}
    for one in held:
        found.setdefault(one.kind, []).append(one)
    return dict(sorted(found.items()))


def _facts(held: list[Held]) -> dict[str, Any]:
    times = [one.used for one in held]
    return {
        "entries": len(held),
        "bytes": sum(one.bytes for one in held),
        "oldest_use": round(min(times)) if times else None,
        "newest_use": round(max(times)) if times else None,
    }


def _megabytes(held: Iterable[Held]) -> str:
    return f"{sum(one.bytes for one in held) / 1e6:.2f} MB"


def _ago(used: float) -> str:
    seconds = max(0.0, time.time() - used)
    unit = next((unit for unit in ("d", "h", "m") if seconds >= 2 * _SECONDS[unit]), None)
    return f"{seconds / _SECONDS[unit]:.0f} {unit}" if unit else f"{seconds:.0f} s"


def _age(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9})([mhdw])", text)
    if match is None:
        raise ValueError(f"`{text}` is no age: write e.g. `30d` (m, h, d, w)")
    return int(match[1]) * _SECONDS[match[2]]
