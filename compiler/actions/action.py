"""An action: one unit of a compile that runs in a process, known by the digest of everything its result hangs on.

description   JSON: kind, name, facts, needs, and what to do; any worker can run it (`edgec action run FILE`)
key           sha256 of kind and facts; facts are digests by word (`model`, `steps`, `code`, …), so that one can
              say which of them changed. What an action needs adds nothing to them: it hangs on the same facts
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..diagnostics.diagnostic import fail

VERSION = 1
FORMAT = "edgec.action"


@dataclass(frozen=True)
class Action:
    """What runs, on what, and what it takes.

    kind     `prove`, `profile`, `solve`, `lower`, `compile`, `emit` or `verify`
    name     for people: `target.npu1 for snapdragon_8_gen_3`
    facts    digests of what the result hangs on, by word
    needs    keys of the actions whose results it reads
    request  what to do: the plan, the number of the deploy line, of the unit
    memory   bytes of all its processes at their peak, estimated
    seconds  estimated
    """

    kind: str
    name: str
    facts: Mapping[str, str]
    needs: tuple[str, ...] = ()
    request: Mapping[str, Any] = field(default_factory=dict)
    memory: float = 0.0
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """What the result is known by, on every machine that shares the store."""
        text = json.dumps([VERSION, self.kind, sorted(self.facts.items())])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def label(self) -> str:
        """Kind and name."""
        return f"{self.kind} {self.name}"

    def described(self) -> str:
        """The description as JSON."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, sort_keys=True, indent=1) + "\n"


def read_description(text: str, where: str) -> Action:
    """The action that `described` wrote; E0970 if the text is none."""
    try:
        held = json.loads(text)
        if held.pop("format") != FORMAT or held.pop("version") != VERSION:
            raise ValueError("another format or version")
        held["needs"] = tuple(held["needs"])
        made = Action(**held)
        if not isinstance(made.facts, dict) or not isinstance(made.request, dict):
            raise ValueError("its facts are none")
        return made
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"`{where}` describes no action of this edgec: {error}"
        fail("E0970", message, help="let `edgec compile PLAN --emit snakemake DIR` write it again")


def load_description(path: Path) -> Action:
    """The action that a file describes; E0970 if there is none, or it is not readable."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        fail("E0970", f"`{path}` cannot be read: {reason.lower()}", help="name a file that `--emit snakemake` wrote")
    return read_description(text, str(path))


class Graph:
    """Actions by key, each behind those it needs; one key is one action, whoever asked for it."""

    def __init__(self, actions: Iterable[Action] = ()) -> None:
        self.actions: dict[str, Action] = {}
        for action in actions:
            self.add(action)

    def add(self, action: Action) -> str:
        """Its key; what the graph has already is not added again. The needs have to be there before it."""
        key = action.key
        if key not in self.actions:
            missing = [need for need in action.needs if need not in self.actions]
            if missing:
                raise ValueError(f"{action.label} needs an action that is not in the graph")
            self.actions[key] = action
        return key

    def __len__(self) -> int:
        return len(self.actions)

    def __iter__(self) -> Iterator[tuple[str, Action]]:
        return iter(self.actions.items())

    def users(self) -> dict[str, list[str]]:
        """The keys of the actions that need each action."""
        found: dict[str, list[str]] = {key: [] for key in self.actions}
        for key, action in self.actions.items():
            for need in action.needs:
                found[need].append(key)
        return found

    def behind(self, keys: Sequence[str]) -> set[str]:
        """These and everything that needs them, directly or not."""
        users, found, left = self.users(), set[str](), list(keys)
        while left:
            if (key := left.pop()) not in found:
                found.add(key)
                left += users[key]
        return found
