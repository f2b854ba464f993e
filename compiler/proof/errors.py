"""How far an engine's numbers are from the oracle's, and how far they may be.

    error(output) = max|made - expected| / max|expected|

A bound is the part of the largest value that sums in another order explain, raised to what the arithmetic itself costs
this graph on these numbers, and never above `most`. That cost is measured in the oracle: for float32 with the last
digit of every result moved and what Winograd's transforms lose, for float16 with every result rounded to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..oracle.compare import EDGES
from ..oracle.probes import Probes, Trial
from .half import rounded_to_half
from .winograd import PEAK, with_losses

Arrays = Mapping[str, np.ndarray]
_LEAST = 1e-6  # a largest value below it counts as this
_SHARE = 1e-2  # and one of a probability below this
_SHARES = ("Sigmoid", "HardSigmoid", "Softmax")
_MOVES = (
    "Identity",
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Slice",
    "Gather",
    "Concat",
    "Split",
    "Cast",
)


@dataclass(frozen=True)
class Arithmetic:
    """What an engine computes in.

    bound   of an output, of its largest value: what needs no further look
    most    the same, whatever the arithmetic costs; None: as much as that
    single  of the result of one op
    conv    of the result of a convolution, which engines compute by transforms
    largest number that it holds; None: any
    """

    name: str
    bound: float
    most: float | None
    single: float
    conv: float
    slack: float = 4.0  # times what the simulation loses
    largest: float | None = None


FLOAT32 = Arithmetic("float32", bound=1e-4, most=1e-2, single=2e-4, conv=4e-3)
FLOAT16 = Arithmetic("float16", bound=5e-3, most=2e-2, single=1e-2, conv=1e-2, largest=65504.0)
INTEGERS = Arithmetic("integers", bound=3e-2, most=3e-2, single=2e-2, conv=2e-2)  # a step of 8 bits is 0.4 % of a range
_DRAWN = 2  # times that losses are drawn


def scales(model: ir.Model) -> dict[str, float]:
    """What values count as large as at least, by name, where that is known: probabilities are shares of 1.

    Engines compute them as 1 - 1 / (1 + e^x) and the like: one that is 1e-5 has two digits then.
    """
    found: dict[str, float] = {}
    for node in model.graph:
        moved = node.inputs[0] if node.op_type in _MOVES and node.inputs else None
        if node.op_type in _SHARES or (moved is not None and moved.name in found):
            found.update({value.name: _SHARE for value in node.outputs if value.name})
    return found


def relative_errors(got: Arrays, expected: Arrays, least: Mapping[str, float] | None = None) -> dict[str, float]:
    """max|a - b| / max|b| per output; infinite where shapes differ, or what is not finite is not the same.

    `least`: of `scales`.
    """
    errors = {}
    for name, wanted in expected.items():
        made = got[name]
        if wanted.dtype.kind != "f" or made.shape != wanted.shape:  # integers are equal, or wrong
            errors[name] = 0.0 if np.array_equal(made, wanted) else float("inf")
            continue
        finite = np.isfinite(wanted)
        if not np.array_equal(made[~finite], wanted[~finite], equal_nan=True):
            errors[name] = float("inf")
            continue
        wanted, made = wanted[finite].astype(np.float64), made[finite].astype(np.float64)
        scale = max(largest(wanted), (least or {}).get(name, _LEAST))
        error = float(np.abs(made - wanted).max(initial=0.0)) / scale
        errors[name] = error if np.isfinite(error) else float("inf")
    return errors


def largest(array: np.ndarray, otherwise: float = 0.0) -> float:
    """The largest finite magnitude; `otherwise` counts for what is not finite."""
    size = np.abs(array.astype(np.float64))
    return float(np.where(np.isfinite(size), size, otherwise).max(initial=0.0))


def _ends(arithmetic: Arithmetic) -> float:
    """The largest finite number that it has."""
    return float(np.finfo(np.float16 if arithmetic.name == "float16" else np.float32).max)


def share(error: float) -> str:
    """An error or a bound, for people."""
    return f"{100 * error:.{2 if error < 0.1 else 0}f} %" if np.isfinite(error) else "more than all"


def far(probes: Probes, trial: Trial, made: Arrays, arithmetic: Arithmetic) -> dict[str, tuple[float, float]]:
    """The outputs that are further from the oracle's than the arithmetic explains: error and bound.

    Of extreme numbers only results that the arithmetic has count: what is no number has no right value.
    """
    expected = {
        name: array
        for name, array in trial.expected.items()
        if trial.kind not in EDGES or array.dtype.kind != "f" or largest(array, np.inf) <= _ends(arithmetic)
    }
    least = scales(probes.model)
    suspects = {
        name: error for name, error in relative_errors(made, expected, least).items() if error > arithmetic.bound
    }
    if not suspects:
        return {}
    bounds = dict.fromkeys(suspects, arithmetic.bound)
    for cost in _costs(probes, trial, arithmetic, expected, least):
        bounds = {name: max(bound, _bound(cost.get(name, 0.0), arithmetic)) for name, bound in bounds.items()}
        if all(suspects[name] <= bound for name, bound in bounds.items()):
            return {}
    return {name: (error, bounds[name]) for name, error in suspects.items() if not error <= bounds[name]}


def _bound(cost: float, arithmetic: Arithmetic) -> float:
    raised = arithmetic.slack * cost
    return raised if arithmetic.most is None or not raised > arithmetic.most else arithmetic.most


def _costs(
    probes: Probes, trial: Trial, arithmetic: Arithmetic, expected: Arrays, least: Mapping[str, float]
) -> Iterator[dict[str, float]]:
    """By output, what the arithmetic loses on these numbers, of the largest value; the cheapest way to tell first."""
    if arithmetic.name == "float16":
        made = rounded_to_half(probes.model, trial.feeds)
        if made is not None:
            yield relative_errors(made, expected, least)
        return
    if arithmetic.name == "integers":  # the oracle rounds to the same steps
        return
    for made in with_losses(probes.model, trial.feeds, _DRAWN):
        yield {name: PEAK * error for name, error in relative_errors(made, expected, least).items()}
    moved = probes.rounding(trial)
    # terms that cancel leave nothing but rounding: no share of the largest value bounds that
    yield {name: moved[name] / max(largest(array), _LEAST) / arithmetic.slack for name, array in expected.items()}
