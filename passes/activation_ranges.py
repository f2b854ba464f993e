"""The ranges that activations take on calibration text, one stretch of the decoder at a time.

    minmax       [min x, max x]
    percentile   the shortest [low, high] that leaves out 0.005 % of the values at either end
    mse          [a min x, a max x] with the a in (0, 1] of the least  sum (x - q(x))^2,  b bits
    auto         uint16: minmax, a tenth wider (unseen text goes further, and 16 bits have room); uint8: mse

Held: the residual stream of all windows at one boundary, one stretch's weights, one batch's activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from ..compiler.clock import Clock
from ..compiler.diagnostics import EngineError, fail
from ..compiler.module import Module
from ..compiler.torch_graph import Constants, Env, device, evaluate, plain_inputs, stretches

_BATCH = 8  # windows
_BINS = 4096
_TAIL = 5e-5
_ROOM = 1.1
_PARTS = 120


@dataclass
class Seen:
    """What one tensor held: its ends and, where a method needs it, how often each of `_BINS` parts of it came."""

    low: float = float("inf")
    high: float = float("-inf")
    counts: torch.Tensor | None = None

    def add(self, x: torch.Tensor) -> None:
        low, high = torch.aminmax(x)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    def count(self, x: torch.Tensor) -> None:
        found = torch.histc(x.float(), _BINS, self.low, self.high).double().cpu()
        self.counts = found if self.counts is None else self.counts + found

    def range(self, method: str, bits: int) -> tuple[float, float]:
        """The ends of the range under `method`."""
        method = ("minmax" if bits == 16 else "mse") if method == "auto" else method
        if method == "minmax" or self.counts is None or self.high <= self.low:
            room = _ROOM if bits == 16 else 1.0
            return self.low * room, self.high * room
        return self._percentile() if method == "percentile" else self._mse(bits)

    def _percentile(self) -> tuple[float, float]:
        counts = self._counted()
        share = torch.cumsum(counts, 0) / counts.sum()
        edges = torch.linspace(self.low, self.high, _BINS + 1)
        first, last = int((share <= _TAIL).sum()), int((share < 1 - _TAIL).sum())
        return float(edges[first]), float(edges[min(last + 1, _BINS)])

    def _mse(self, bits: int) -> tuple[float, float]:
        counts = self._counted()
        width = (self.high - self.low) / _BINS
        centre = self.low + width * (torch.arange(_BINS, dtype=torch.float64) + 0.5)
        best, found = float("inf"), (self.low, self.high)
        for part in torch.linspace(1.0, 1.0 / _PARTS, _PARTS).tolist():
            low, high = min(self.low * part, 0.0), max(self.high * part, 0.0)
            step = (high - low) / ((1 << bits) - 1)
            beyond = (centre - centre.clamp(low, high)) ** 2
            inside = (centre >= low) & (centre <= high)
            cost = float((counts * torch.where(inside, torch.full_like(beyond, step**2 / 12), beyond)).sum())
            if cost < best:
                best, found = cost, (low, high)
        return found

    def _counted(self) -> torch.Tensor:
        if self.counts is None:
            raise ValueError("nothing was counted")
        return self.counts


def measure(
    module: Module,
    ids: np.ndarray,
    values: Iterable[ir.Value],
    counted: Iterable[ir.Value],
    progress: Callable[[str], None] = lambda _text: None,
) -> tuple[dict[ir.Value, Seen], dict[ir.Node, Seen]]:
    """What `values` held over the windows `ids` [W, S] (`counted` ones with a histogram), and Attentions' scores."""
    seen = {value: Seen() for value in values}
    histograms = set(counted)
    scores: dict[ir.Node, Seen] = {}
    on = device()
    batches = [plain_inputs(module, ids[at : at + _BATCH], on) for at in range(0, len(ids), _BATCH)]
    cut = stretches(module.main.graph)
    clock = Clock(progress, "ranges of", [1.0] * len(cut))
    for index, stretch in enumerate(cut):
        clock.tick(stretch.name)
        later = {value for after in cut[index + 1 :] for value in after.reads}
        constants = Constants(on=on)
        again = any(value in histograms for node in stretch.nodes for value in node.outputs)
        for at, env in enumerate(batches):
            made = _run(stretch.nodes, env, constants, lambda value, x: seen[value].add(x) if value in seen else None)
            for node in stretch.nodes:
                if node.op_type == "Attention":
                    scores.setdefault(node, Seen()).add(_scores(node, made))
            if not again:
                batches[at] = {value: x for value, x in made.items() if value in later}
        _demand_finite(stretch.nodes, seen)
        if again:
            for at, env in enumerate(batches):
                made = _run(
                    stretch.nodes,
                    env,
                    constants,
                    lambda value, x: seen[value].count(x) if value in histograms else None,
                )
                batches[at] = {value: x for value, x in made.items() if value in later}
    return seen, scores


def _run(
    nodes: Iterable[ir.Node], env: Env, constants: Constants, see: Callable[[ir.Value, torch.Tensor], None]
) -> Env:
    values = dict(env)
    with torch.no_grad():
        for node in nodes:
            inputs = [None if v is None else values[v] if v in values else constants.get(v) for v in node.inputs]
            for value, x in zip(node.outputs, evaluate(node, inputs), strict=False):
                values[value] = x
                see(value, x)
    return values


def _scores(node: ir.Node, values: Env) -> torch.Tensor:
    """q k^T * scale where the mask is zero."""
    q, k, mask = (values[v] for v in (node.inputs[0], node.inputs[1], node.inputs[3]) if v is not None)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scale = node.attributes["scale"].as_float() if "scale" in node.attributes else q.shape[-1] ** -0.5
    return ((q @ k.transpose(-1, -2)) * scale)[(mask == 0).expand(len(q), q.shape[1], -1, -1)]


def _demand_finite(nodes: Iterable[ir.Node], seen: dict[ir.Value, Seen]) -> None:
    for node in nodes:
        for value in node.outputs:
            held = seen.get(value)
            if held is not None and not (np.isfinite(held.low) and np.isfinite(held.high)):
                fail(
                    "E0457",
                    f"the calibration's activations out of `{node.name}` are not finite",
                    kind=EngineError,
                )
