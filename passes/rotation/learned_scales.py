"""Factors for channels, trained block by block together with ranges of 8 bits, and folded into weights.

    x' = x s     norm gain g s      q, k, v or gate, up  W / s          s [H]
                 v_proj  s W        o_proj               W / s          s [D] for each K/V head
                 up_proj s W        down_proj            W / s          s [I]

    min over s, a, b of  sum |B(x'; s, a, b) - B_float(x)|^2       every linear of B with 8 bits on both sides,
                                                                   its ranges [a min x s, b max x s]

What a rotation leaves of outliers, or cannot reach (the inside of an MLP), is evened out between channels. B keeps its
weights: rounding happens in the units of x s, and W / s follows at the end, so that outputs do not change. Rounding has
the gradient of the identity. x is the float model's stream, x' that of the blocks already trained. A block that does
not gain keeps its factors of one. Training begins where SmoothQuant's formula (arXiv 2211.10438) is best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ...compiler.calibration import windows as calibrate
from ...compiler.calibration.cores import in_order, one_thread_an_operation
from ...compiler.calibration.time_left import TimeLeft
from ...compiler.calibration.torch_graph import (
    Constants,
    Env,
    Segment,
    all_values,
    device,
    outputs_of,
    plain_inputs,
    segments,
)
from ...compiler.diagnostics.diagnostic import fail
from ...compiler.files import cache
from ...compiler.ir.module import Module
from ...compiler.pipeline.pass_interface import Scope
from ..quantization.activation_ranges import content
from ..quantization.learned_ranges import rounded
from ..solve import solution_cache as store
from ..solve.awq import Feeder, feeder, fold, readers, scalable, widen_readers
from ..solve.residual_streams import ResidualStreams

_KIND = "learned-scales"
_STARTS = (0.0, 0.25, 0.5, 0.75)  # exponents of the formula
_STEPS, _RATE, _WINDOWS = 40, 0.03, 2
_LARGEST = 6.9  # of |log s|


def learn_scales(module: Module, scope: Scope) -> int:
    """Train the factors of every block and fold them; how many inputs of linears were scaled."""
    if scope.calibration is None:
        fail(
            "E0454",
            "`rotate (learned = true)` needs a `calibration` block, but the plan has none",
            scope.origin,
            help='add `calibration { text = "calib/*.txt" }`, or leave out `learned`',
        )
    ids = calibrate.windows(scope.calibration, module)
    flow = ResidualStreams(module, {})
    sites = _sites(flow)
    key = store.key("scales 1", calibrate.digest(ids), content(module.main.graph), f"{_STEPS} {_RATE} {_WINDOWS}")

    def build(folder: Path) -> None:
        made = _Training(module, ids, sites, scope.progress).run()
        named: dict[str, Any] = {value.name or "": s for value, s in made.items()}
        np.savez(folder / "scales.npz", **named)

    with np.load(cache.make(_KIND, key, build) / "scales.npz") as held:
        found = {value: torch.from_numpy(held[value.name or ""]) for value in sites if value.name in held.files}
    for value, s in found.items():
        feed = feeder(flow, value)  # with the weights as they are behind the last fold
        if feed is None:
            raise ValueError(f"`{value.name}` has no feeder any more")
        widen_readers(flow, value, 1 / s, feed)
        fold(module, feed, 1 / s)
        flow.refresh()
    return len(found)


def _sites(flow: ResidualStreams) -> dict[ir.Value, Feeder]:
    """The inputs of the blocks' linears that a factor can be folded behind."""
    found: dict[ir.Value, Feeder] = {}
    for linear in flow.linears.values():
        value = linear.node.inputs[0]
        if linear.kind != "matmul" or value is None or value in found or value.producer() is None:
            continue
        feed = feeder(flow, value)
        inside = all("layers." in one.name for one in readers(flow, value)) if feed is not None else False
        if feed is not None and inside and scalable(flow, value, feed) is None:
            found[value] = feed
    return found


Leaves = dict[str, torch.Tensor]  # by value name: log s; with `.ends` behind it: the logs of a and b


class _Training:
    """One walk over the decoder."""

    def __init__(
        self, module: Module, ids: np.ndarray, sites: Mapping[ir.Value, Feeder], progress: Callable[[str], None]
    ) -> None:
        self.module, self.ids, self.sites, self.progress, self.on = module, ids, sites, progress, device()

    @one_thread_an_operation()
    def run(self) -> dict[ir.Value, np.ndarray]:
        """s of every input whose block gains."""
        cut = segments(self.module.main.graph)
        clock = TimeLeft(self.progress, "learning scales of", [1.0] * len(cut))
        exact: list[Env] = [plain_inputs(self.module, self.ids[at : at + 1], self.on) for at in range(len(self.ids))]
        rough = exact
        found: dict[ir.Value, np.ndarray] = {}
        for index, segment in enumerate(cut[:-1]):
            clock.tick(segment.name)
            later = {value for after in cut[index + 1 :] for value in after.reads}
            block = _Block(segment, Constants(on=self.on), self.sites, later)
            after = list(in_order(block.exact, exact)) if index else [block.exact(env) for env in exact]
            if not index:
                exact = rough = after
                continue
            leaves = self._learn(block, rough, after)
            for value in block.inputs:
                s = leaves[value.name or ""].exp()
                if value in self.sites and bool((s != 1).any()):
                    found[value] = s.numpy()
            rough = list(in_order(lambda env, b=block, w=leaves: b.rough(env, w), rough))
            exact = after
        return found

    def _learn(self, block: _Block, inputs: Sequence[Env], targets: Sequence[Env]) -> Leaves:
        pairs = list(zip(inputs, targets, strict=True))
        plain = block.leaves(inputs, 0.0)
        starts = [plain, *(block.leaves(inputs, power) for power in _STARTS[1:])]
        losses = [self._loss(block, leaves, pairs) for leaves in starts]
        best = int(np.argmin(losses))
        moved = {name: leaf.clone().requires_grad_() for name, leaf in starts[best].items()}
        optimizer, chance = torch.optim.Adam(moved.values(), lr=_RATE), np.random.default_rng(0)
        for step in range(_STEPS):
            chosen = [pairs[at] for at in chance.choice(len(pairs), min(_WINDOWS, len(pairs)), replace=False)]
            gradients = list(in_order(lambda pair: _gradient(block, moved, *pair), chosen))
            for index, leaf in enumerate(moved.values()):  # in the order of the windows: the same sum every time
                leaf.grad = torch.stack([one[index] for one in gradients]).sum(0)
            for group in optimizer.param_groups:
                group["lr"] = _RATE * (1 - step / _STEPS)
            optimizer.step()
            with torch.no_grad():
                for leaf in moved.values():
                    leaf.clamp_(-_LARGEST, _LARGEST)
        made = {name: leaf.detach() for name, leaf in moved.items()}
        candidates = [(losses[best], starts[best]), (self._loss(block, made, pairs), made)]
        return min(candidates, key=lambda one: one[0])[1]

    def _loss(self, block: _Block, leaves: Leaves, pairs: Sequence[tuple[Env, Env]]) -> float:
        with torch.no_grad():
            return float(sum(float(one) for one in in_order(lambda pair: block.loss(*pair, leaves), pairs)))


def _gradient(block: _Block, moved: Leaves, env: Env, target: Env) -> list[torch.Tensor]:
    """Of one window's loss; from a graph of its own, which one thread makes."""
    with torch.enable_grad():
        leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in moved.items()}
        found = torch.autograd.grad(block.loss(env, target, leaves), list(leaves.values()), allow_unused=True)
    zero = (torch.zeros_like(leaf) for leaf in moved.values())
    return [none if one is None else one for one, none in zip(found, zero, strict=True)]


@dataclass(frozen=True)
class _Block:
    """A segment of the decoder whose linears have 8 bits on both sides, in units that factors choose."""

    segment: Segment
    constants: Constants
    sites: Mapping[ir.Value, Feeder]
    keep: set[ir.Value]

    @property
    def linears(self) -> list[ir.Node]:
        """The products of the segment, in order."""
        return [node for node in self.segment.nodes if node.op_type == "MatMul"]

    @property
    def inputs(self) -> list[ir.Value]:
        """What they read, each once."""
        return list(dict.fromkeys(node.inputs[0] for node in self.linears if node.inputs[0] is not None))

    def exact(self, env: Env) -> Env:
        """The float block."""
        with torch.no_grad():
            return self._run(env, None)

    def rough(self, env: Env, leaves: Leaves) -> Env:
        """The block in 8 bits."""
        with torch.no_grad():
            return self._run(env, leaves)

    def leaves(self, inputs: Sequence[Env], power: float) -> Leaves:
        """Where training begins: s = (max |x| / their mean)^-power, no range narrower than what was seen."""
        largest: dict[ir.Value, torch.Tensor] = {}
        for env in inputs[:4] if power else inputs[:1]:
            values = self._values(env)
            for value in self.inputs:
                size = values[value].abs().flatten(0, -2).amax(0)
                largest[value] = torch.maximum(largest.get(value, size), size)
        made: Leaves = {}
        for value in self.inputs:
            feed = self.sites.get(value)
            if feed is not None:
                size = feed.narrow(largest[value]).clamp_min(1e-6).log()
                made[value.name or ""] = (-power * (size - size.mean())).clamp(-_LARGEST, _LARGEST)
            made[f"{value.name}.ends"] = torch.zeros(2, device=largest[value].device)
        return made | {f"{node.outputs[0].name}.ends": torch.zeros(2) for node in self.linears}

    def loss(self, env: Env, target: Env, leaves: Leaves) -> torch.Tensor:
        """Mean squared error of what leaves the block, relative to the float block's."""
        made = self._run(env, leaves)
        found = [
            (x - target[value]).square().mean() / target[value].square().mean().clamp_min(1e-20)
            for value, x in made.items()
            if value not in env and x.dtype.is_floating_point
        ]
        return torch.stack(found).sum()

    def _values(self, env: Env) -> Env:
        with torch.no_grad():
            return all_values(self.segment.nodes, env, self.constants)

    def _run(self, env: Env, leaves: Leaves | None) -> Env:
        values = dict(env)
        scaled = {} if leaves is None else self._scaled_outputs(leaves)
        for node in self.segment.nodes:
            read = node.inputs[0] if node.inputs else None
            if leaves is None or node.op_type != "MatMul" or read is None:
                made = outputs_of(node, values, self.constants)
            else:
                feed, log = self.sites.get(read), leaves.get(read.name or "")
                s = None if feed is None or log is None else feed.widen(log.exp())
                x = _rounded(values[read], s, leaves[f"{read.name}.ends"])
                (y,) = outputs_of(node, {**values, read: x}, self.constants)
                made = (_rounded(y, scaled.get(node), leaves[f"{node.outputs[0].name}.ends"]),)
            values.update(zip(node.outputs, made, strict=False))
        return {value: x for value, x in values.items() if value in self.keep}

    def _scaled_outputs(self, leaves: Leaves) -> dict[ir.Node, torch.Tensor]:
        """The factors of what a linear makes, where it is a feeder."""
        found = {}
        for value in self.inputs:
            feed = self.sites.get(value)
            if feed is not None and feed.linear is not None:
                found[feed.linear.node] = leaves[value.name or ""].exp()
        return found


def _rounded(x: torch.Tensor, s: torch.Tensor | None, ends: torch.Tensor) -> torch.Tensor:
    """`x` through 8 bits in the units of x s, over its own least and largest value times exp(ends)."""
    scaled = x if s is None else x * s
    low, high = torch.aminmax(scaled)
    made = rounded(scaled, (low * ends[0].exp(), high * ends[1].exp()))
    return made if s is None else made / s
