"""The outlier profile of a model: a row for each linear in 8 bits, as a file that can be read, plotted and used again.

{"version": 3, "model": digest, "linears": [{"name": …, "hot": [3, 17], "coverage": 0.98, "loss": 0.0021, …}, …]}

The digest is over the names, shapes and float weights of the linears, so that a profile is told from another model's.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ...compiler.files.plain_file import read_plain

VERSION = 3


@dataclass(frozen=True)
class OutputOutliers:
    """What a linear's output held: as `LinearOutliers` has it of the input, each channel's error relative to itself."""

    low: float
    high: float
    hot: tuple[int, ...]
    coverage: float
    needed: int
    error: float
    alone_low: float
    alone_high: float
    alone_error: float


@dataclass(frozen=True)
class LinearOutliers:
    """One linear: what its input held, the range with corrected channels and the one without, and what that is worth.

    coverage  share of the clipping error that the hot channels carry; needed: channels that would carry what is asked
    error     of the output's squares, relative: with hot channels corrected; `alone`: with the range of clip search
    loss      the KL divergence of the logits, in nats a token of calibration text, from those without the shadow of
              this linear and of the others that read its input; None: it has none
    """

    name: str
    input: str  # the op that makes what it reads: linears of one input have one range, and keep a shadow together
    outputs: int
    inputs: int
    seen: tuple[float, float]
    low: float
    high: float
    hot: tuple[int, ...]
    coverage: float
    needed: int
    error: float
    beyond: float  # share of the input's values that are clipped and neither corrected nor read
    alone_low: float
    alone_high: float
    alone_error: float
    output: OutputOutliers | None = None  # None: outputs are not corrected
    loss: float | None = None
    kept: bool = False

    @property
    def shadowed(self) -> bool:
        """Whether there is anything that the CPU would correct."""
        return bool(self.hot) or (self.output is not None and bool(self.output.hot))

    @property
    def rows(self) -> int:
        """Float weights that the CPU would have."""
        of_output = len(self.output.hot) * self.inputs if self.output is not None else 0
        return len(self.hot) * self.outputs + of_output


@dataclass(frozen=True)
class Profile:
    """All linears, in running order."""

    model: str
    coverage: float
    max_channels: float
    mode: str
    rare: int  # channels that are read in each call, besides the hot ones
    loss_of_all: float | None
    linears: tuple[LinearOutliers, ...]

    def text(self) -> str:
        """The profile as JSON."""
        rows = [asdict(row) for row in self.linears]
        head: dict[str, Any] = {"version": VERSION, "model": self.model, "coverage": self.coverage}
        head |= {"max_channels": self.max_channels, "mode": self.mode, "rare": self.rare}
        return json.dumps({**head, "loss_of_all": self.loss_of_all, "linears": rows}, indent=1) + "\n"


_NO_NUMBERS = ("name", "input", "seen", "hot", "output")
Choice = TypeVar("Choice", LinearOutliers, OutputOutliers)


def read(path: Path) -> Profile:
    """The profile in a file; ValueError, with the reason, for anything else; OSError where it cannot be read."""
    try:
        held = json.loads(read_plain(path).decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} in line {error.lineno}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(held, dict) or held.get("version") != VERSION:
        raise ValueError(f"it is no outlier profile of version {VERSION}")
    try:
        rows = tuple(_row(row) for row in held["linears"])
        all_ = held["loss_of_all"]
        return Profile(
            str(held["model"]), float(held["coverage"]), float(held["max_channels"]), str(held["mode"]),
            int(held["rare"]), None if all_ is None else float(all_), rows,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a row of it is not as edgec writes them ({error})") from None


def _row(row: dict[str, Any]) -> LinearOutliers:
    given = {field.name: row[field.name] for field in fields(LinearOutliers)}
    if given["output"] is not None:
        own = given["output"]
        given["output"] = OutputOutliers(**{field.name: own[field.name] for field in fields(OutputOutliers)})
    made = LinearOutliers(**given)
    low, high = map(float, made.seen)
    output = None if made.output is None else _checked(made.output, made.name, made.outputs)
    return replace(_checked(made, made.name, made.inputs), seen=(low, high), output=output)


def _checked(made: Choice, name: str, width: int) -> Choice:
    """With channels as a tuple; ValueError for what the graph could not be split by."""
    hot = tuple(map(int, made.hot))
    if any(not 0 <= k < width for k in hot) or list(hot) != sorted(set(hot)):
        raise ValueError(f"`{name}` has channels that it has not")
    told = [getattr(made, field.name) for field in fields(made) if field.name not in _NO_NUMBERS]
    if not all(isinstance(one, (int, float)) for one in told if one is not None):
        raise ValueError(f"`{name}` has words where numbers are")
    numbers = (made.low, made.high, made.alone_low, made.alone_high)
    if not (made.low <= made.high and made.alone_low <= made.alone_high and all(abs(n) < 1e30 for n in numbers)):
        raise ValueError(f"`{name}` has no range")
    return replace(made, hot=hot)
