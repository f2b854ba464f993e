"""A model's JSON config with typed, checked access: each getter gives the value or an error naming file and key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...diagnostics.diagnostic import fail
from ...files.plain_file import read_plain

_TOO_MUCH = 2.0**63
_LARGEST = 2**31 - 1  # dimensions and ids travel as int32


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; a missing file, bad JSON or another kind of value is an error."""
    try:
        text = read_plain(path).decode("utf-8")
    except FileNotFoundError:
        where = "it does not exist" if path.parent.is_dir() else "its folder does not exist"
        fail("E0330", f"cannot read `{path}`: {where}", help="a model folder holds config.json and *.safetensors")
    except (OSError, UnicodeDecodeError) as problem:
        reason = str(problem.strerror).lower() if isinstance(problem, OSError) else "it is not UTF-8 text"
        fail("E0330", f"cannot read `{path}`: {reason}")
    try:
        value = json.loads(text)
    except RecursionError:
        fail("E0331", f"`{path}` is not JSON that can be read: it nests too deeply")
    except ValueError as problem:
        reason = problem.msg.lower() if isinstance(problem, json.JSONDecodeError) else "a number is too long"
        line = f" at line {problem.lineno}" if isinstance(problem, json.JSONDecodeError) else ""
        fail("E0331", f"`{path}` is not JSON: {reason}{line}")
    if not isinstance(value, dict):
        fail("E0331", f"`{path}` holds no JSON object, but a {type(value).__name__}")
    return value


def pointer_hint(start: bytes) -> str | None:
    """What to do about a file that begins with `start`, if git-lfs left it there in place of the real one."""
    if start.startswith(b"version https://git-lfs"):
        return "this is a pointer that git-lfs left in place of the file: run `git lfs pull` in the model's folder"
    return None


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


class Config:
    """The keys of one JSON object and the file they come from."""

    def __init__(self, values: Mapping[str, Any], path: Path, prefix: str = "") -> None:
        self.values = values
        self.path = path
        self._prefix = prefix

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def section(self, key: str) -> Config | None:
        """The object under `key`, or None where the key is absent or null."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self._wrong(key, "an object")
        return Config(value, self.path, f"{self._prefix}{key}.")

    def integer(self, key: str, default: int | None = None, minimum: int = 1, maximum: int = _LARGEST) -> int:
        """The integer `key`, `default` where it is absent or null. E0336 if it is anything else or out of range."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong(key, "an integer")
        if not minimum <= value <= maximum:
            self._wrong(key, f"an integer from {minimum} to {maximum}")
        return value

    def number(self, key: str, default: float | None = None, positive: bool = True) -> float:
        """The number `key` as a float, below 2^63; `default` where it is absent or null. E0336 otherwise."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self._wrong(key, "a finite number")
        if abs(value) >= _TOO_MUCH:
            self._wrong(key, "a number of a sensible size")
        if positive and value <= 0:
            self._wrong(key, "a number above 0")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        """The boolean `key`, `default` where it is absent or null. E0336 otherwise."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            self._wrong(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """The string `key`, `default` where it is absent or null. E0336 otherwise."""
        value = self._value(key, default)
        if not isinstance(value, str):
            self._wrong(key, "a string")
        return value

    def strings(self, key: str) -> list[str]:
        """A list of strings; empty where the key is absent or null."""
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._wrong(key, "a list of strings")
        return value

    def numbers(self, key: str) -> list[float]:
        """A list of numbers, infinite ones too; empty where the key is absent or null."""
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or any(isinstance(x, bool) or not isinstance(x, int | float) for x in value):
            self._wrong(key, "a list of numbers")
        return value

    def integers(self, key: str) -> list[int]:
        """A list of integers; empty where the key is absent or null."""
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in value):
            self._wrong(key, "a list of integers")
        return value

    def positive_numbers(self, key: str) -> list[float]:
        """A list of finite numbers above 0. E0336 where the key is absent, null or anything else."""
        value = self._value(key, None)
        if not isinstance(value, list) or not all(_is_positive(item) for item in value):
            self._wrong(key, "a list of numbers above 0")
        return [float(item) for item in value]

    def ids(self, key: str) -> tuple[int, ...]:
        """One token id or a list of them; empty where the key is absent or null."""
        value = self.values.get(key)
        if value is None:
            return ()
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(i, int) and not isinstance(i, bool) and -1 <= i <= _LARGEST for i in items):
            self._wrong(key, "a token id or a list of them")
        return tuple(i for i in items if i >= 0)  # -1: there is none

    def with_defaults(self, defaults: Mapping[str, Any]) -> Config:
        """The same with a value for keys that are absent; a null stays a null."""
        return Config({**defaults, **self.values}, self.path, self._prefix)

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            fail("E0336", f"`{self.path}` has no `{self._prefix}{key}`")
        return value

    def _wrong(self, key: str, wanted: str) -> Any:
        value = json.dumps(self.values.get(key), default=str)
        shown = value if len(value) <= 40 else value[:37] + "..."
        fail("E0336", f"`{self._prefix}{key}` in `{self.path}` has to be {wanted}, not {shown}")
