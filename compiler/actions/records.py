"""What actions have left: results, what they took, and on what the last one of a name hung. Notes of the cache.

action/<key>          the result: its outputs, which have to be there too, seconds, peak, how often it ran
action-begun/<key>    where an action that was cut off had come to
action-last/<digest>  facts of the last action of this name of this plan: says why another one runs
action-cost/<kind>    what the last runs of a kind took beside their estimates: corrects the next ones
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from ..files import cache
from .action import Action
from .facts import changed

RESULT, LAST, COST, BEGUN = "action", "action-last", "action-cost", "action-begun"
_RUNS = 24  # that a correction looks back on
_EVERY = 1.0  # seconds between two notes of how far an action has come
_ROOM = 1.1  # times what an action is known to have taken


@dataclass(frozen=True)
class Output:
    """An entry of the cache, or a note."""

    kind: str
    key: str
    note: bool = False


@dataclass
class Result:
    """What an action left and took. `facts`: what those that need it read."""

    outputs: list[Output] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak: float = 0.0
    runs: int = 1

    def whole(self) -> bool:
        """Whether its outputs are there; each is compared with its digests when it is read."""
        return all(_there(one) for one in self.outputs)


def known(key: str) -> Result | None:
    """The result of an action that has run and whose outputs are there; None: it has to run."""
    found = noted(key)
    return found if found is not None and found.whole() else None


def noted(key: str) -> Result | None:
    """The result as it was noted, whether or not its outputs are there."""
    try:
        held = json.loads(cache.read_note(RESULT, key) or "null")
        return Result(**{**held, "outputs": [Output(**one) for one in held["outputs"]]}) if held else None
    except (TypeError, ValueError, KeyError):
        return None


def keep(action: Action, made: Result) -> None:
    """Note a result, and what it took; OSError where the cache cannot be written."""
    before = noted(action.key)
    made.runs = 1 if before is None else before.runs + 1
    cache.write_note(RESULT, action.key, json.dumps(asdict(made), sort_keys=True))
    if made.seconds > 0:
        with contextlib.suppress(OSError):
            _add_cost(action, made)


def noting(action: Action, say: Callable[[str], None]) -> Callable[[str], None]:
    """`say`, keeping every second how far an action has come, for `why` where it is cut off."""
    last = 0.0

    def noted(text: str) -> None:
        nonlocal last
        if time.monotonic() - last > _EVERY:
            last = time.monotonic()
            with contextlib.suppress(OSError):
                cache.write_note(BEGUN, action.key, text)
        say(text)

    return noted


def remember_facts(plan: str, action: Action) -> None:
    """Keep what an action hung on, for `why`."""
    with contextlib.suppress(OSError):
        cache.write_note(LAST, _last(plan, action), json.dumps(dict(action.facts), sort_keys=True))


def why(plan: str, action: Action) -> str:
    """Why an action runs, in words."""
    found = noted(action.key)
    if found is not None:
        gone = next((one for one in found.outputs if not _there(one)), None)
        return f"its result `{gone.kind}` is no longer in the cache" if gone else "it has run"
    if (at := cache.read_note(BEGUN, action.key)) is not None:
        return f"it was cut off at `{at}`, and goes on there"
    try:
        before = json.loads(cache.read_note(LAST, _last(plan, action)) or "null")
    except ValueError:
        before = None
    if not isinstance(before, dict):
        return "it has never run"
    words = changed(before, action.facts)
    return f"changed since it last ran: {', '.join(words)}" if words else "what it needs changed"


def corrected(action: Action) -> tuple[float, float]:
    """Memory and seconds of an action: as it took itself, else its estimate by what others of its kind took."""
    found = noted(action.key)
    if found is not None and found.peak > 0:
        return found.peak * _ROOM, found.seconds
    rows = _costs(action.kind)
    memory = max([median(row[0] for row in rows), *(row[0] for row in rows[-3:])]) if rows else 1.0
    seconds = median(row[1] for row in rows) if rows else 1.0
    return action.memory * min(max(memory, 0.2), 8.0), action.seconds * min(max(seconds, 0.05), 20.0)


def _add_cost(action: Action, made: Result) -> None:
    if action.memory <= 0 or action.seconds <= 0 or made.peak <= 0:
        return
    rows = [*_costs(action.kind), (made.peak / action.memory, made.seconds / action.seconds)]
    cache.write_note(COST, _cost(action.kind), json.dumps(rows[-_RUNS:]))


def _costs(kind: str) -> Sequence[tuple[float, float]]:
    try:
        rows = json.loads(cache.read_note(COST, _cost(kind)) or "[]")
        return [(float(memory), float(seconds)) for memory, seconds in rows]
    except (TypeError, ValueError):
        return []


def _cost(kind: str) -> str:
    return hashlib.sha256(kind.encode()).hexdigest()


def _last(plan: str, action: Action) -> str:
    return hashlib.sha256(json.dumps([plan, action.kind, action.name]).encode()).hexdigest()


def _there(one: Output) -> bool:
    place = cache.entry(one.kind, one.key)
    return place.with_name(place.name + cache.NOTE).is_file() if one.note else place.is_dir()
