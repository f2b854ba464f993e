"""A point of a search: values for a plan's lets, and what became of the plan with them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..diagnostics.diagnostic import Diagnostic, fail

MOST = 256  # points of a sweep, unless more are asked for
Values = Mapping[str, str]  # name of a let -> its value as written


@dataclass(frozen=True)
class Figures:
    """What is known of a plan: bytes of its bundle and of memory on the device, tokens a second, quality.

    `quality` is perplexity over that of the float model, of the model whose text ships; without evaluation text the
    mean relative error of its weights (`by_text` false). None for what nobody can tell.
    """

    size: float | None = None
    quality: float | None = None
    by_text: bool = True
    decode: float | None = None
    prefill: float | None = None
    memory: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)  # subject of a `require` line or a goal -> value


@dataclass(frozen=True)
class Point:
    """A finished point. `missed`: the `require` lines that do not hold, in words; `error`: why there is no bundle."""

    values: Values
    figures: Figures = Figures()
    missed: tuple[str, ...] = ()
    error: Diagnostic | None = None
    exit_code: int = 0
    seconds: float = 0.0
    run: bool = True  # false: left out, because an earlier point failed
    estimated: bool = False  # nothing was compiled: figures from shapes and from its modules
    sources: Mapping[str, str] = field(default_factory=dict, repr=False)  # the texts that `error` points into

    @property
    def state(self) -> str:
        """In a word: the code of an error, or whether what is required holds."""
        if self.error is not None:
            return self.error.code
        if not self.run or self.estimated:
            return "estimated" if self.estimated else "not run"
        return "does not hold" if self.missed else "holds"

    @property
    def name(self) -> str:
        """Its values in one line."""
        return "  ".join(f"{name}={value}" for name, value in self.values.items()) or "the plan as it is"

    def entry(self) -> dict[str, Any]:
        """As JSON has it."""
        facts = self.figures
        error = self.error
        return {
            "values": dict(self.values),
            "state": self.state,
            "size": facts.size,
            "quality": facts.quality,
            "quality_by": None if facts.quality is None else "perplexity" if facts.by_text else "weight_error",
            "decode_rate": facts.decode,
            "prefill_rate": facts.prefill,
            "memory": facts.memory,
            "missed": list(self.missed),
            "error": None if error is None else {"code": error.code, "message": error.message, "help": error.way_out},
            "seconds": round(self.seconds, 2),
        }


def all_points(axes: Mapping[str, Sequence[str]], most: int = MOST) -> Iterator[Values]:
    """Every combination, the last axis fastest; E0984 for more than `most`, E0983 where there is nothing to vary."""
    if not axes:
        help = "give a list of values: `-D block=[32, 64, 128]`; `edgec inspect PLAN` lists the lets"
        fail("E0983", "nothing is swept: no `-D` has a list", help=help)
    count = math.prod(map(len, axes.values()))
    if count > most:
        sizes = " × ".join(f"{len(values)} of `{name}`" for name, values in axes.items())
        help = f"leave values out, or `--most {count}`; `edgec tune` looks for the best without making all"
        fail("E0984", f"{sizes} are {count} points, more than {most}", help=help)
    return (dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values()))
