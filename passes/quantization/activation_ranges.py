"""The ranges that activations take on calibration text, one segment of the decoder at a time.

    minmax       [min x, max x]
    percentile   the shortest [low, high] that leaves out 0.005 % of the values at either end
    mse          [a min x, a max x] with the a in (0, 1] of the least  sum (x - q(x))^2,  b bits
    clip         of 8-bit inputs the least error of the outputs (`clip_ranges.py`), else auto
    learned      of 8-bit inputs and outputs trained (`learned_ranges.py`), else auto
    auto         uint16: minmax, a tenth wider (unseen text goes further, and 16 bits have room); uint8: mse

Held: the residual stream of all windows at one boundary, one segment's weights, one batch's activations. What was seen
is kept in the cache, under the windows and all that the graph computes with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from safetensors.numpy import load_file, save_file

from ...compiler.calibration import windows as calibrate
from ...compiler.calibration.cores import one_thread_an_operation
from ...compiler.calibration.time_left import TimeLeft
from ...compiler.calibration.torch_graph import Constants, Env, all_values, device, plain_inputs, segments
from ...compiler.diagnostics.diagnostic import EngineError, fail
from ...compiler.files import cache
from ...compiler.ir.module import Module, constant
from ..solve import solution_cache as store

_BATCH = 8  # windows
_BINS = 4096
_TAIL = 5e-5
_ROOM = 1.1
_PARTS = 120
NARROW_METHODS = ("clip", "learned")  # what they search is linears' ranges in 8 bits; all else is as with auto


@dataclass
class ObservedValues:
    """What one tensor held: its ends, its size and, where a method needs it, how often each of `_BINS` parts came."""

    low: float = float("inf")
    high: float = float("-inf")
    counts: torch.Tensor | None = None
    size: float = 0.0  # sum |x|
    number: int = 0  # of values

    def add(self, x: torch.Tensor) -> None:
        """First walk: widen [low, high] to the values of `x`, any shape."""
        low, high = torch.aminmax(x)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        self.size += float(torch.linalg.vector_norm(x.float(), 1))
        self.number += x.numel()

    def coarseness(self) -> float:
        """A step of 16 bits in parts of the mean |x|."""
        low, high = self.range("minmax", 16)
        return (high - low) / 65535 * self.number / self.size if self.size > 0 else 0.0

    def count(self, x: torch.Tensor) -> None:
        """Second walk, once the ends are known: count the values of `x` in equal bins between them."""
        found = torch.histc(x.float(), _BINS, self.low, self.high).double().cpu()
        self.counts = found if self.counts is None else self.counts + found

    def range(self, method: str, bits: int) -> tuple[float, float]:
        """The ends of the range under `method`."""
        method = ("minmax" if bits == 16 else "mse") if method in ("auto", *NARROW_METHODS) else method
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


def ranges(
    module: Module,
    ids: np.ndarray,
    values: Sequence[ir.Value],
    counted: Iterable[ir.Value],
    progress: Callable[[str], None] = lambda _text: None,
) -> tuple[dict[ir.Value, ObservedValues], dict[ir.Node, ObservedValues]]:
    """As `measure_ranges`; from the cache if the same was measured before."""
    counted = sorted(set(counted), key=lambda value: value.name or "")
    names = [[value.name or "" for value in some] for some in (values, counted)]
    key = store.key("ranges 2", calibrate.digest(ids), content(module.main.graph), *(repr(some) for some in names))

    def build(folder: Path) -> None:
        seen, scores = measure_ranges(module, ids, values, counted, progress)
        parts = {f"value {v.name}": one for v, one in seen.items()} | {f"node {n.name}": s for n, s in scores.items()}
        arrays = {f"{name} ends": np.array([one.low, one.high, one.size, one.number]) for name, one in parts.items()}
        arrays |= {f"{name} counts": one.counts.numpy() for name, one in parts.items() if one.counts is not None}
        save_file(arrays, folder / "seen.safetensors")

    held = load_file(cache.make("ranges", key, build) / "seen.safetensors")

    def of(name: str) -> ObservedValues:
        low, high, size, number = held[f"{name} ends"].tolist()
        counts = held.get(f"{name} counts")
        return ObservedValues(low, high, None if counts is None else torch.from_numpy(counts), size, int(number))

    seen = {value: of(f"value {value.name}") for value in values}
    scores = {node: of(f"node {node.name}") for node in module.main.graph if f"node {node.name} ends" in held}
    return seen, scores


def content(graph: ir.Graph) -> str:
    """What tells one graph's arithmetic from another's: its nodes and all constants that they read."""
    parts = []
    for node in graph:
        proto = ir.to_proto(node)
        proto.ClearField("metadata_props")
        parts.append(proto.SerializeToString(deterministic=True).hex())
    read = {value for node in graph for value in node.inputs if value is not None}
    held = {value.name or "": weight for value in read if (weight := constant(value)) is not None}
    return store.key(*parts, *(f"{name} {store.digest(held[name])}" for name in sorted(held)))


@one_thread_an_operation()
def measure_ranges(
    module: Module,
    ids: np.ndarray,
    values: Iterable[ir.Value],
    counted: Iterable[ir.Value],
    progress: Callable[[str], None] = lambda _text: None,
) -> tuple[dict[ir.Value, ObservedValues], dict[ir.Node, ObservedValues]]:
    """What `values` held over the windows `ids` [W, S] (`counted` ones with a histogram), and Attentions' scores."""
    seen = {value: ObservedValues() for value in values}
    histograms = set(counted)
    scores: dict[ir.Node, ObservedValues] = {}
    on = device()
    batches = [plain_inputs(module, ids[at : at + _BATCH], on) for at in range(0, len(ids), _BATCH)]
    cut = segments(module.main.graph)
    clock = TimeLeft(progress, "ranges of", [1.0] * len(cut))
    for index, segment in enumerate(cut):
        clock.tick(segment.name)
        later = {value for after in cut[index + 1 :] for value in after.reads}
        constants = Constants(on=on)
        again = any(value in histograms for node in segment.nodes for value in node.outputs)
        for at, env in enumerate(batches):
            made = _run(segment.nodes, env, constants, lambda value, x: seen[value].add(x) if value in seen else None)
            for node in segment.nodes:
                if node.op_type == "Attention":
                    scores.setdefault(node, ObservedValues()).add(_scores(node, made))
            if not again:
                batches[at] = {value: x for value, x in made.items() if value in later}
        _demand_finite(segment.nodes, seen)
        if again:
            for at, env in enumerate(batches):
                made = _run(
                    segment.nodes,
                    env,
                    constants,
                    lambda value, x: seen[value].count(x) if value in histograms else None,
                )
                batches[at] = {value: x for value, x in made.items() if value in later}
    return seen, scores


def _run(
    nodes: Iterable[ir.Node], env: Env, constants: Constants, see: Callable[[ir.Value, torch.Tensor], None]
) -> Env:
    with torch.no_grad():
        values = all_values(nodes, env, constants)
    for value, x in values.items():
        if value not in env:
            see(value, x)
    return values


def _scores(node: ir.Node, values: Env) -> torch.Tensor:
    """q k^T * scale where the mask is zero."""
    q, k, mask = (values[v] for v in (node.inputs[0], node.inputs[1], node.inputs[3]) if v is not None)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scale = node.attributes["scale"].as_float() if "scale" in node.attributes else q.shape[-1] ** -0.5
    return ((q @ k.transpose(-1, -2)) * scale)[(mask == 0).expand(len(q), q.shape[1], -1, -1)]


def _demand_finite(nodes: Iterable[ir.Node], seen: dict[ir.Value, ObservedValues]) -> None:
    for node in nodes:
        for value in node.outputs:
            held = seen.get(value)
            if held is not None and not (np.isfinite(held.low) and np.isfinite(held.high)):
                fail(
                    "E0457",
                    f"the calibration's activations out of `{node.name}` are not finite",
                    kind=EngineError,
                )
