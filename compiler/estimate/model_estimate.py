"""What a deployed model will do on a chip: the time of each call, decoding, prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .histogram import Histogram
from .lane_speed import ChipSpeed
from .prefill import PromptCost, call_cost, free_prompt_cost, prompt_cost
from .work import ModelWork

PIECE = 512  # tokens a call of an engine without buckets takes of a prompt


@dataclass(frozen=True)
class PartTime:
    """One part in one call. `bound`: what it waits for, `memory` or `arithmetic`."""

    part: str
    lane: str
    read: float  # bytes
    flops: float
    seconds: float
    bound: str


@dataclass(frozen=True)
class CallTime:
    """One call of `tokens` new positions within `context`."""

    tokens: int
    context: int
    seconds: float
    parts: tuple[PartTime, ...]


@dataclass(frozen=True)
class ModelEstimate:
    """One model on one chip. Rates are None where the chip has no published bandwidth.

    shapes   its buckets (tokens, context); for an engine without buckets the shapes it is likely to be called with
    elsewhere  lane -> (decode, prefill) tokens a second, with every part there
    """

    name: str
    target: str
    work: ModelWork
    shapes: tuple[tuple[int, int], ...]
    static: bool
    residual: float
    calls: tuple[CallTime, ...]
    decode: float | None
    prompts: PromptCost | None
    elsewhere: dict[str, tuple[float, float]]

    @property
    def prefill(self) -> float | None:
        """Tokens of prompt a second, over the histogram."""
        return None if self.prompts is None else self.prompts.rate


def estimate_model(
    work: ModelWork,
    target: str,
    buckets: Sequence[tuple[int, int]],
    speed: ChipSpeed,
    histogram: Histogram,
    residual: float,
) -> ModelEstimate:
    """Calls, rates and lanes of one model; `buckets` is empty for an engine that takes any shape."""
    context = work.context or max((context for _, context in buckets), default=1)
    shapes = tuple(sorted(buckets)) or ((1, context), (min(PIECE, context), context))
    own = _Way(work, shapes, bool(buckets))
    serves, decoder = speed.serves(work), bool(work.context)
    calls = tuple(_call(work, *shape, speed, residual) for shape in shapes) if serves else ()
    decode = own.decode(speed, residual) if serves and decoder else None
    prompts = own.prompts(speed, histogram, residual) if serves and decoder else None
    elsewhere = {}
    for lane in speed.lanes if decoder else ():
        way = _Way(work.on(lane), _shapes_on(lane, own, context), lane == "npu")
        elsewhere[lane] = way.decode(speed, residual), way.prompts(speed, histogram, residual).rate
    return ModelEstimate(work.name, target, work, shapes, bool(buckets), residual, calls, decode, prompts, elsewhere)


@dataclass(frozen=True)
class _Way:
    """A model's work, and the shapes it is called in: `static` ones, or any up to `PIECE` tokens."""

    work: ModelWork
    shapes: tuple[tuple[int, int], ...]
    static: bool

    def decode(self, speed: ChipSpeed, residual: float) -> float:
        """Tokens a second, one by one, at the end of the longest context; by the cheapest call that reaches so far."""
        longest = max(context for _, context in self.shapes)
        calls = (speed.call_seconds(self.work, t, c, residual) for t, c in self.shapes if c == longest)
        return 1 / min(calls)

    def prompts(self, speed: ChipSpeed, histogram: Histogram, residual: float) -> PromptCost:
        """What the prompts of `histogram` that fit cost."""
        within = histogram.within(max(context for _, context in self.shapes))
        cost = call_cost(speed, self.work, residual)
        if self.static:
            return prompt_cost(self.shapes, within, cost, self.work.bytes_read)
        return free_prompt_cost(PIECE, within, cost, self.work.bytes_read)


def _shapes_on(lane: str, own: _Way, context: int) -> tuple[tuple[int, int], ...]:
    """An NPU wants static shapes: the model's own buckets, or those of most plans where it has none."""
    if lane != "npu" or own.static:
        return own.shapes
    return ((1, context), (min(128, max(1, context // 2)), context))


def round_seconds(estimate: ModelEstimate, tokens: int, speed: ChipSpeed) -> float:
    """A call that verifies: of the smallest bucket of at least `tokens` at the longest context."""
    longest = max(context for _, context in estimate.shapes)
    fitting = [t for t, c in estimate.shapes if c == longest and t >= tokens] if estimate.static else [tokens]
    return speed.call_seconds(estimate.work, min(fitting, default=tokens), longest, estimate.residual)


def _call(work: ModelWork, tokens: int, context: int, speed: ChipSpeed, residual: float) -> CallTime:
    parts = []
    for part in work.parts:
        lane = speed.lanes[part.device]
        seconds = lane.seconds(part, tokens, context) * (residual if part.device == "npu" else 1.0)
        figures = part.bytes_read(tokens, context), part.flops(tokens, context)
        parts.append(PartTime(part.name, part.device, *figures, seconds, lane.bound(part, tokens, context)))
    return CallTime(tokens, context, speed.call_seconds(work, tokens, context, residual), tuple(parts))
