"""What the inputs of linears hold, channel by channel, and what removing a shadow does to the logits; in torch.

Both walk the decoder segment by segment, with the weights of one segment in memory. Channels are counted on the
activations of the float walk with the weights that ship. `losses` runs the model with the inputs of its linears rounded
as they will be, all variants side by side: variant j is the model without the shadow of the linears of input j.

    loss_j = mean over positions of KL(softmax(logits) || softmax(logits_j))
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from ...compiler.calibration.cores import in_order, one_thread_an_operation
from ...compiler.calibration.time_left import TimeLeft
from ...compiler.calibration.torch_graph import Constants, Env, Segment, device, outputs_of, plain_inputs, run, segments
from ...compiler.diagnostics.diagnostic import EngineError, fail
from ...compiler.ir.activation_encodings import Encoding
from ...compiler.ir.module import Module
from .clip_search import CALL, STEPS, ChannelValues, thresholds

_BATCH = 8  # windows
Progress = Callable[[str], None]


@one_thread_an_operation()
def channel_values(
    module: Module, ids: np.ndarray, inputs: Iterable[ir.Value], progress: Progress
) -> dict[ir.Value, ChannelValues]:
    """What each of `inputs` held over the windows `ids` [W, S]."""
    wanted, on = set(inputs), device()
    batches = [plain_inputs(module, ids[at : at + _BATCH], on) for at in range(0, len(ids), _BATCH)]
    cut = segments(module.main.graph)
    clock = TimeLeft(progress, "channels of", [1.0] * len(cut))
    found: dict[ir.Value, ChannelValues] = {}
    for index, segment in enumerate(cut):
        clock.tick(segment.name)
        later = {value for after in cut[index + 1 :] for value in after.reads}
        here = [value for node in segment.nodes for value in node.outputs if value in wanted]
        seen, constants = {value: _Counting(value) for value in here}, Constants(on=on)
        for values in _each(segment, batches, constants, here, index) if here else ():
            for value in here:
                seen[value].widen(values[value])
        asked = [*dict.fromkeys([*here, *(value for value in segment.outputs if value in later)])]
        for at, values in enumerate(_each(segment, batches, constants, asked, index)):
            for value in here:
                seen[value].count(values[value])
            batches[at] = {value: x for value, x in (batches[at] | values).items() if value in later}
        found |= {value: counting.done() for value, counting in seen.items()}
    return found


def _each(
    segment: Segment, batches: list[Env], constants: Constants, wanted: list[ir.Value], index: int
) -> Iterator[Env]:
    """What the segment makes of each batch; the embedding, whose rows are read as they are asked for, in order."""

    def work(env: Env) -> Env:
        with torch.no_grad():
            return dict(zip(wanted, run(segment.nodes, env, constants, wanted), strict=True))

    return in_order(work, batches) if index else map(work, batches)


class _Counting:
    """The sums of one input."""

    def __init__(self, value: ir.Value) -> None:
        self.value, self.low, self.high = value, float("inf"), float("-inf")
        self.sums: torch.Tensor | None = None
        self.squares: torch.Tensor | None = None
        self.largest: torch.Tensor | None = None
        self.rows = self.calls = 0

    def widen(self, x: torch.Tensor) -> None:
        low, high = torch.aminmax(x)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        if not (np.isfinite(self.low) and np.isfinite(self.high)):
            message = f"the calibration's activations out of `{self.value.name}` are not finite"
            fail("E0457", message, kind=EngineError)

    def count(self, x: torch.Tensor) -> None:
        flat = x.flatten(0, -2)
        channels = flat.shape[1]
        if self.sums is None or self.squares is None or self.largest is None:
            self.sums = torch.zeros(3, STEPS * channels, dtype=torch.float64)
            self.squares = torch.zeros(channels, dtype=torch.float64)
            self.largest = torch.zeros(STEPS * channels, dtype=torch.float64)
        size = flat.abs()
        edges = torch.from_numpy(thresholds(max(-self.low, self.high))[::-1].astype(np.float32).copy()).to(x.device)
        at, inside = _places(size, edges)
        values = size[inside].double().cpu()
        for power in range(3):
            self.sums[power] += torch.bincount(at, values**power, minlength=STEPS * channels)
        calls = torch.cat([part.abs().amax(-2).flatten(0, -2) for part in x.split(CALL, -2)])
        self.largest += torch.bincount(_places(calls, edges)[0], minlength=STEPS * channels)
        self.squares += flat.double().square().sum(0).cpu()
        self.rows += len(flat)
        self.calls += len(calls)

    def done(self) -> ChannelValues:
        if self.sums is None or self.squares is None or self.largest is None:
            raise ValueError(f"`{self.value.name}` was not seen")
        sums, largest = self.sums.reshape(3, STEPS, -1).numpy(), self.largest.reshape(STEPS, -1).numpy()
        return ChannelValues(self.rows, self.low, self.high, sums, self.squares.numpy(), self.calls, largest)


def _places(size: torch.Tensor, edges: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Threshold times channels plus channel of each of `size` [n, K] above the least threshold, and which those are."""
    channels = size.shape[1]
    place = STEPS - torch.bucketize(size, edges, right=True)  # 0: at the largest; STEPS: below the smallest
    inside = place < STEPS
    return (place * channels + torch.arange(channels, device=size.device))[inside].cpu(), inside


@dataclass(frozen=True)
class RoundedOutput:
    """How a linear's output is rounded, with its shadow and without, and which channels the shadow computes again."""

    shadowed: Encoding
    alone: Encoding
    hot: tuple[int, ...]

    def of(self, y: torch.Tensor, shadow: bool) -> torch.Tensor:
        """`y` rounded; with a shadow, what its hot channels have beyond the range is added."""
        encoding = self.shadowed if shadow else self.alone
        made = rounded(y, encoding)
        if shadow and self.hot:
            some = y[..., list(self.hot)]
            made[..., list(self.hot)] += some - some.clamp(encoding.low, encoding.high)
        return made


@dataclass(frozen=True)
class Rounded:
    """How a linear's input is rounded, with its shadow and without."""

    shadowed: Encoding
    alone: Encoding
    hot: tuple[int, ...]
    rows: Callable[[], np.ndarray]  # float weights [N, h] of the hot channels
    output: RoundedOutput | None = None  # None: outputs are left as they are
    rare: int = 0  # further channels that are corrected in each call, those of the largest values beyond the range

    def rest(self, x: torch.Tensor) -> torch.Tensor:
        """What lies beyond the shadow's range outside of the hot channels."""
        over = x - x.clamp(self.shadowed.low, self.shadowed.high)
        over[..., list(self.hot)] = 0
        return over

    def read(self, over: torch.Tensor) -> torch.Tensor:
        """What of `rest` is corrected: the channels of the largest values of each call."""
        made = []
        for part in over.split(CALL, -2):
            place = part.abs().amax(-2, keepdim=True).topk(min(self.rare, over.shape[-1]), -1).indices
            made.append(part * torch.zeros_like(part[..., :1, :]).scatter(-1, place, 1.0))
        return torch.cat(made, -2)


@one_thread_an_operation()
def _stepped(step: _Step, item: tuple[frozenset[ir.Node], Env]) -> Env:
    return step(*item)


def losses(
    module: Module,
    ids: np.ndarray,
    how: Mapping[ir.Node, Rounded],
    groups: Sequence[frozenset[ir.Node]],
    progress: Progress,
) -> tuple[list[float], float, dict[ir.Node, float]]:
    """The loss of removing the shadows of each group of linears, that of removing all of them, and what stays clipped.

    The last: by linear, the share of its input's values that lie beyond the range and are not corrected.
    """
    on = device()
    cut = segments(module.main.graph)
    clock = TimeLeft(progress, "weighing shadows at", [float(i + 1) for i in range(len(cut))])
    every, none = frozenset(node for group in groups for node in group), frozenset[ir.Node]()
    clipped: dict[ir.Node, float] = {}
    streams: dict[frozenset[ir.Node], Env] = dict.fromkeys((none, every), plain_inputs(module, ids, on))
    for index, segment in enumerate(cut[:-1]):
        clock.tick(segment.name)
        streams |= {group: streams[none] for group in groups if not group.isdisjoint(segment.nodes)}
        keep = {value for after in cut[index + 1 :] for value in after.reads}
        step = _Step(segment, Constants(on=on), _HotRows(how), keep, clipped)
        if not index:  # nothing is rounded in front of the embedding
            streams = dict.fromkeys(streams, step(none, streams[none]))
            continue
        made = in_order(functools.partial(_stepped, step), list(streams.items()))
        streams = dict(zip(list(streams), made, strict=True))
    clock.tick(cut[-1].name)
    streams |= {group: streams[none] for group in groups if group not in streams}
    logits = _logits(module)
    head = _Step(cut[-1], Constants(on=on), _HotRows(how), {logits}, clipped)
    base = head(none, streams[none])[logits]
    found = in_order(lambda item: _divergence(base, head(*item)[logits]), list(streams.items()))
    by_variant = dict(zip(list(streams), found, strict=True))
    return [by_variant[group] for group in groups], by_variant[every], clipped


class _HotRows:
    """The rows of hot channels as tensors, read when a linear first asks."""

    def __init__(self, how: Mapping[ir.Node, Rounded]) -> None:
        self.how = how
        self._rows: dict[ir.Node, torch.Tensor] = {}

    def rows(self, node: ir.Node) -> torch.Tensor:
        if node not in self._rows:
            self._rows[node] = torch.from_numpy(self.how[node].rows()).to(device())
        return self._rows[node]


@dataclass(frozen=True)
class _Step:
    """One segment run with rounded inputs; what it returns is what `keep` names."""

    segment: Segment
    constants: Constants
    hot: _HotRows
    keep: set[ir.Value]
    clipped: dict[ir.Node, float]  # filled by the model with all its shadows

    def __call__(self, without: frozenset[ir.Node], env: Env) -> Env:
        """`env` behind the segment, with the shadows of the linears `without` left out."""
        values = dict(env)
        with torch.no_grad():
            for node in self.segment.nodes:
                made = self._outputs(node, values, node in without, not without)
                values.update(zip(node.outputs, made, strict=False))
        return {value: x for value, x in values.items() if value in self.keep}

    def _outputs(self, node: ir.Node, values: Env, removed: bool, counted: bool) -> tuple[torch.Tensor, ...]:
        how, read = self.hot.how.get(node), node.inputs[0]
        if how is None or read is None:
            return outputs_of(node, values, self.constants)
        x, shadow = values[read], not removed
        encoding = how.shadowed if shadow else how.alone
        inside = rounded(x, encoding)
        if shadow and (how.hot or how.rare):
            over = how.rest(x)
            corrected = how.read(over) if how.rare else torch.zeros_like(over)
            inside = inside + corrected
            if counted:
                self.clipped[node] = float((over != corrected).double().mean())
        (y,) = outputs_of(node, {**values, read: inside}, self.constants)
        if how.output is not None:
            y = how.output.of(y, shadow)
        if shadow and how.hot:
            some = x[..., list(how.hot)]
            y = y + (some - some.clamp(encoding.low, encoding.high)) @ self.hot.rows(node).T
        return (y,)


def rounded(x: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    """`x` through the integers of `encoding`."""
    least, most = encoding.ends
    q = torch.clamp(torch.round(x / encoding.scale) + encoding.zero_point, least, most)
    return (q - encoding.zero_point) * encoding.scale


def _logits(module: Module) -> ir.Value:
    return next(value for value in module.main.graph.outputs if value.name == "logits")


def _divergence(base: torch.Tensor, other: torch.Tensor) -> float:
    """Mean KL(softmax(base) || softmax(other)) over positions, one window at a time."""
    total = 0.0
    for a, b in zip(base, other, strict=True):
        p, q = torch.log_softmax(a.double(), -1), torch.log_softmax(b.double(), -1)
        total += float((p.exp() * (p - q)).sum(-1).mean())
    return total / len(base)
