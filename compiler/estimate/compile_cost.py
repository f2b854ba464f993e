"""What a compile will take: seconds and peak memory, from lines through measured compiles (`compile_costs.toml`).

    bytes   = 0.15 GB + b * weights + e * weights * (graphs - 1)
    seconds = s * weights * graphs

The process that emits decides both: QNN's compiler holds its part, and something of every bucket. b is the median over
runs with one graph, e the largest over the others (a compile that is let in shall not run out), s the median over all.
What solvers, calibration and perplexity take goes by their texts and is not in it.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASE = 0.15e9  # bytes of a process with an engine in it and no model


@dataclass(frozen=True)
class CompileCost:
    """Seconds on two cores and peak bytes; `why`: what the peak is."""

    seconds: float
    memory: float
    why: str


@functools.cache
def costs() -> Mapping[str, Any]:
    """The table as it stands."""
    return tomllib.loads(Path(__file__).with_name("compile_costs.toml").read_text(encoding="utf-8"))


def emit_cost(engine: str, weights: float, graphs: int) -> CompileCost:
    """Of one model: `engine` is a row of the table, another one counts as `mnn`, whose weights pass by rows."""
    runs = costs().get(engine, costs()["mnn"])["runs"]
    one = _median([(run["bytes"] - BASE) / run["weights"] for run in runs if run["graphs"] == 1])
    several = [run for run in runs if run["graphs"] > 1]
    more = [((run["bytes"] - BASE) / run["weights"] - one) / (run["graphs"] - 1) for run in several]
    seconds = _median([run["seconds"] / run["weights"] / run["graphs"] for run in runs if "seconds" in run])
    memory = BASE + weights * (one + max([0.0, *more]) * (graphs - 1))
    return CompileCost(seconds * weights * graphs, memory, f"the process that emits for {engine}")


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
