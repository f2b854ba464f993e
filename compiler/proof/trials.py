"""What a graph is run with to be proven: the plan's samples, ordinary numbers at two sizes where sizes are open, edges.

A graph that runs long in the oracle has to do with a sample or two ordinary runs.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence

import onnx_ir as ir

from ..diagnostics.diagnostic import fail
from ..oracle.compare import EDGES, FROM_THE_END, HALVES, NEGATIVE, WIDE, Sizes, dims
from ..oracle.probes import Probes, Trial

_ENOUGH, _AGAIN = 16, 4  # integers of an input, below which so many more calls over their range are made
_LONG = 3.0  # seconds of a run in the oracle, above which one or two have to do


def trials(probes: Probes, name: str, edges: Sequence[str] = EDGES) -> tuple[list[Trial], float]:
    """The trials, and the seconds of one run in the oracle.

    E0712 where neither a sample nor numbers are found that model `name` runs with.
    """
    begun = time.monotonic()
    found: list[Trial | None] = [*probes.samples()]
    sizes = list(itertools.islice(probes.sizes(), 2))
    started = time.monotonic()
    found += [probes.trial(sizes[0], 0)] if sizes else []
    ended = time.monotonic()
    long = ended - started > _LONG
    found += [probes.trial((sizes * 2)[1], 1)] if sizes and not long else []
    if sizes and not long and any(trial is not None for trial in found):
        kinds = _edges(probes, edges)
        found += [probes.trial(sizes[0], seed, kind) for seed, kind in enumerate(kinds)]
        again = [kind for kind in (WIDE, NEGATIVE) if kind in kinds and _few(probes, sizes[0])] * _AGAIN
        found += [probes.trial(sizes[0], len(kinds) + seed, kind) for seed, kind in enumerate(again)]
    made = [trial for trial in found if trial is not None]
    if not made or made[0].kind in EDGES:
        lacking = f"sizes of {', '.join(f'`{one}`' for one in probes.open)}" if probes.open else "numbers"
        message = f"no {lacking} were found that `{name}` runs with, which the engine could be compared at"
        fail("E0712", message, help=_way_out(probes))
    return made, ended - started if sizes else (started - begun) / len(made)


def _way_out(probes: Probes) -> str:
    shapes = ", ".join(
        f"{value.name}: [{', '.join(str(d) if isinstance(d, int) else d.value or '?' for d in value.shape or ())}]"
        for value in probes.model.graph.inputs
        if value.shape is not None and not value.shape.is_static()
    )
    sizes = f"`shapes = {{ {shapes} }}` with numbers for names, or " if shapes else ""
    return f"give the model's block {sizes}a `sample` of inputs, or deploy it `as ort`"


def _edges(probes: Probes, asked: Sequence[str]) -> list[str]:
    """Those that are others than ordinary numbers for this graph."""
    integers = any(map(_is_integer, probes.model.graph.inputs))
    rounds = any(node.op_type == "Round" for node in probes.model.graph)
    left_out = {*(() if integers else (FROM_THE_END, WIDE, NEGATIVE)), *(() if rounds else (HALVES,))}
    return [kind for kind in asked if kind not in left_out]


def _few(probes: Probes, sizes: Sizes) -> bool:
    """Whether integers are so few that an engine may be right about them by luck."""
    integers = (value for value in probes.model.graph.inputs if _is_integer(value))
    return any(math.prod(dims(value, sizes)) < _ENOUGH for value in integers)


def _is_integer(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_integer()
