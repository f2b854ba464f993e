"""Activation-aware scaling: important inputs are scaled up before rounding, and down again in what feeds them.

    y = x W^T = (x / s) (W s)^T        s_k = a_k^r / sqrt(max a^r * min a^r),  a_k = mean |x_k|,  r in 0, 0.05 .. 0.95

    norm gain       -> q, k, v          norm gain -> gate, up
    v_proj (a head) -> o_proj           up_proj   -> down_proj

Lin et al. 2023 (arXiv 2306.00978), section 3.2: r is the one whose rounded weights err least on the calibration
activations, tr (W - Q(W s)/s) H (W - Q(W s)/s)^T summed over the readers, H of the float model. Grids are then found by
clip search under the same H (`quantise`). 1/s goes into the gain, or into the rows of the linear that makes x: exact,
no op is added. The heads' values in the K/V cache are scaled by v_proj's 1/s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from ...compiler.calibration.time_left import TimeLeft
from ...compiler.calibration.torch_graph import Segment
from ...compiler.files import cache
from ...compiler.ir.fold_into_weights import behind_bias, bias_of, own_gain, scale_columns, scale_rows, set_weight
from ...compiler.ir.linears import Linear
from ...compiler.ir.module import Module, constant
from ...compiler.ir.weights import Weight
from ...compiler.pipeline.pass_interface import Scope
from . import solution_cache as store
from .gptq import Solved
from .hessian import damped
from .integer_grid import GridKind, fit, spanning
from .residual_streams import Moments, ResidualStreams

_RATIOS = 20
_LARGEST = 1e4


@dataclass(frozen=True)
class Feeder:
    """What makes a linear's inputs, channel for channel: a norm, or a linear; `repeat` readers' heads per head."""

    norm: ir.Node | None
    linear: Linear | None
    head: int = 1  # channels of one head
    repeat: int = 1  # query heads that read one K/V head

    def narrow(self, magnitude: torch.Tensor) -> torch.Tensor:
        """Per channel of the readers -> per channel of the feeder."""
        if self.repeat == 1:
            return magnitude
        return magnitude.reshape(-1, self.repeat, self.head).mean(1).reshape(-1)

    def widen(self, s: torch.Tensor) -> torch.Tensor:
        """A factor per channel of the producer, repeated for the heads that share a K/V head."""
        if self.repeat == 1:
            return s
        return s.reshape(-1, 1, self.head).expand(-1, self.repeat, -1).reshape(-1)


def feeder(flow: ResidualStreams, value: ir.Value) -> Feeder | None:
    """What 1/s can be folded into for the inputs `value`, None if nothing can take it."""
    node = value.producer()
    if node is None or value.is_graph_output() or any(use.node.name not in flow.linears for use in value.uses()):
        return None
    if node.op_type == "RMSNormalization":
        return Feeder(node, None) if constant(node.inputs[1]) is not None else None
    if node.op_type == "Mul":
        for given in node.inputs:
            linear = _linear_behind(flow, given)
            if linear is not None and given is not None and len(given.uses()) == 1:
                return Feeder(None, linear)
        return None
    return _values(flow, node)


def _values(flow: ResidualStreams, node: ir.Node) -> Feeder | None:
    """o_proj's inputs: Reshape(Transpose(Attention(q, k, v))), v = Transpose(Reshape(v_proj))."""
    arch = flow.module.arch
    for op in ("Reshape", "Transpose"):
        if node.op_type != op or node.inputs[0] is None:
            return None
        above = node.inputs[0].producer()
        if above is None:
            return None
        node = above
    if node.op_type != "Attention" or arch is None:
        return None
    value = node.inputs[2]
    for op in ("Transpose", "Reshape"):
        made = value.producer() if value is not None else None
        if made is None or made.op_type != op:
            return None
        value = made.inputs[0]
    linear = _linear_behind(flow, value)
    return None if linear is None else Feeder(None, linear, arch.head_dim, arch.heads // arch.kv_heads)


def _linear_behind(flow: ResidualStreams, value: ir.Value | None) -> Linear | None:
    """The linear (with its bias) that makes `value`."""
    if value is None:
        return None
    for linear in flow.linears.values():
        if linear.kind == "matmul" and behind_bias(linear) is value:
            return linear
    return None


def search(
    weights: Mapping[str, torch.Tensor], kinds: Mapping[str, GridKind], moments: Moments, feed: Feeder
) -> torch.Tensor:
    """s [channels of the feeder]; `kinds` holds the grids of each reader."""
    hessian = moments.hessian
    magnitude = feed.narrow(moments.magnitude).clamp_min(1e-4)
    best, best_error = torch.ones_like(magnitude), None
    for step in range(_RATIOS):
        s = magnitude.pow(step / _RATIOS)
        s = (s / (s.max() * s.min()).sqrt()).clamp(1 / _LARGEST, _LARGEST)
        wide = feed.widen(s)
        error = 0.0
        for name, w in weights.items():
            scaled = w * wide
            e = w - _nearest(scaled, kinds[name]) / wide
            error += float(((e @ hessian) * e).sum())
        if best_error is None or error < best_error:
            best, best_error = s, error
    return best


def _nearest(w: torch.Tensor, kind: GridKind) -> torch.Tensor:
    """Round to nearest on the grid that just spans each block."""
    grid = spanning(w, kind)
    return grid.value(grid.quantise(w))


def fold(module: Module, feed: Feeder, s: torch.Tensor) -> dict[str, Weight]:
    """Put 1/s into the feeder; what the feeding linear holds now, by name."""
    factors = (1 / s).cpu().numpy()
    if feed.norm is not None:
        gain = own_gain(module, feed.norm)
        held = constant(gain)
        if held is None:
            raise ValueError(f"`{feed.norm.name}` has no constant gain")
        set_weight(gain, scale_rows(held, factors, "awq"))
        return {}
    linear = feed.linear
    if linear is None or linear.stored is None:
        raise ValueError("a feeder is a norm or a float linear")
    turn = scale_rows if linear.rows_are_outputs else scale_columns
    made = turn(linear.stored, factors, "awq")
    set_weight(linear.value, made)
    bias = bias_of(linear)
    held = constant(bias)
    if bias is not None and held is not None:
        set_weight(bias, scale_rows(held, factors, "awq"))
    return {linear.name: made}


def readers(flow: ResidualStreams, value: ir.Value) -> list[Linear]:
    """The linears that read `value`."""
    return [flow.linears[use.node.name or ""] for use in value.uses()]


def widen_readers(flow: ResidualStreams, value: ir.Value, s: torch.Tensor, feed: Feeder) -> dict[str, Weight]:
    """W s for every reader of `value`; what each holds now."""
    factors = feed.widen(s).cpu().numpy()
    made = {}
    for linear in readers(flow, value):
        if linear.stored is None:
            raise ValueError(f"`{linear.name}` is quantised")
        turn = scale_columns if linear.rows_are_outputs else scale_rows
        made[linear.name] = turn(linear.stored, factors, "awq")
        set_weight(linear.value, made[linear.name])
    return made


def scalable(flow: ResidualStreams, value: ir.Value, feed: Feeder) -> str | None:
    """Why the scale cannot be folded; None if it can."""
    touched = [*readers(flow, value), *([feed.linear] if feed.linear is not None else [])]
    for linear in touched:
        if linear.stored is None:
            return f"`{linear.name}` is quantised already"
        if len(linear.value.uses()) > 1:
            return f"`{linear.name}` shares its weight"
    return None


def quantise(w: torch.Tensor, hessian: torch.Tensor, kind: GridKind, damping: float) -> Solved:
    """Clip search under the Hessian, then round to nearest."""
    grid = fit(w, kind, damped(hessian, damping))
    return Solved(grid.quantise(w), grid, w, [])


def scale_module(flow: ResidualStreams, wanted: Mapping[str, GridKind], state: str, scope: Scope) -> int:
    """Walk the float decoder and fold the scales of every group with a linear in `wanted`; how many were folded.

    `state` is the key of the windows; scales found before are in the cache.
    """
    folded = 0
    formats = {name: repr(kind) for name, kind in wanted.items()}
    clock = TimeLeft(scope.progress, "awq: scales of", flow.sizes())
    for segment in flow.segments[1:]:
        clock.tick(segment.name)
        state = store.key(state, flow.content(segment, formats))
        for value, names in flow.groups(segment):
            feed = feeder(flow, value)
            if feed is None:
                scope.note(f"awq: nothing in front of `{names[0]}` can take its scale")
                continue
            if why := scalable(flow, value, feed):
                scope.note(f"awq: `{names[0]}` is not scaled: {why}")
                continue
            s = _found(flow, segment, value, feed, {name: wanted[name] for name in names}, store.key(state, names[0]))
            if bool((s == 1).all()):
                continue
            widen_readers(flow, value, s, feed)
            flow.refresh()  # the feeder of one group may be the reader of another
            fold(flow.module, feeder(flow, value) or feed, s)
            flow.refresh()
            folded += 1
        flow.later(partial(flow.advance, segment, {}))
    return folded


def _found(
    flow: ResidualStreams, segment: Segment, value: ir.Value, feed: Feeder, kinds: Mapping[str, GridKind], key: str
) -> torch.Tensor:
    """s for the linears that read `value`, from the cache if it was searched before."""

    def build(folder: Path) -> None:
        flow.catch_up()
        weights = {name: torch.from_numpy(flow.linears[name].weight().numpy()).to(flow.on) for name in kinds}
        s = search(weights, kinds, flow.moments(segment, value, {}), feed)
        np.save(folder / "s.npy", s.cpu().numpy())

    return torch.from_numpy(np.load(cache.make("awq", key, build) / "s.npy")).to(flow.on)
