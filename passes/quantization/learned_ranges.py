"""Static ranges of 8-bit inputs and outputs trained block by block against the float block's outputs.

    min over a, b of  sum |B(x'; ranges) - B_float(x)|^2        range = [low e^a, high e^b],  one a and b per tensor

B is a decoder block with the weights that ship and its linears rounded on both sides; x is the float model's stream in
front of it and x' that of the blocks already learned. Rounding has the gradient of the identity, so a range's end is
moved by what clipping loses against what a wider step does (LSQ, Esser et al. 2020). A block that does not gain on all
windows keeps the ranges it had. No part runs on the CPU for it (Quant.npu, arXiv 2605.20295).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from ...compiler.calibration import windows as calibrate
from ...compiler.calibration.cores import in_order, one_thread_an_operation
from ...compiler.calibration.time_left import TimeLeft
from ...compiler.calibration.torch_graph import Constants, Env, Segment, device, outputs_of, plain_inputs, segments
from ...compiler.files import cache
from ...compiler.ir.module import Module
from ..solve import solution_cache as store
from .activation_ranges import content

Ends = tuple[float, float]
_KIND = "learned-ranges"


@dataclass(frozen=True)
class Training:
    """How a block is trained; part of every key."""

    steps: int = 60
    rate: float = 0.02
    windows: int = 4  # a step

    @property
    def key(self) -> str:
        """What tells one training from another."""
        return f"{self.steps} {self.rate} {self.windows}"


def learned_ranges(
    module: Module,
    ids: np.ndarray,
    narrow: Sequence[ir.Node],
    first: Mapping[ir.Value, Ends],
    progress: Callable[[str], None],
    training: Training | None = None,
) -> dict[ir.Value, Ends]:
    """The ranges of the inputs and outputs of the linears `narrow`, which begin as `first`; cached."""
    training = training or Training()
    begin = {value.name or "": ends for value, ends in first.items()}
    key = store.key("learned 2", calibrate.digest(ids), content(module.main.graph), repr(begin), training.key)

    def build(folder: Path) -> None:
        made = _Learning(module, ids, narrow, first, training, progress).run()
        text = json.dumps({value.name or "": ends for value, ends in made.items()})
        (folder / "ranges.json").write_text(text, encoding="utf-8")

    held = json.loads((cache.make(_KIND, key, build) / "ranges.json").read_text())
    return {value: (held[value.name or ""][0], held[value.name or ""][1]) for value in first}


class _Learning:
    """One walk over the decoder."""

    def __init__(
        self,
        module: Module,
        ids: np.ndarray,
        narrow: Sequence[ir.Node],
        first: Mapping[ir.Value, Ends],
        training: Training,
        progress: Callable[[str], None],
    ) -> None:
        self.module, self.ids, self.training, self.progress = module, ids, training, progress
        self.narrow, self.ranges = set(narrow), dict(first)
        self.on = device()

    @one_thread_an_operation()
    def run(self) -> dict[ir.Value, Ends]:
        """Learn all blocks."""
        cut = segments(self.module.main.graph)
        clock = TimeLeft(self.progress, "learning ranges of", [1.0] * len(cut))
        exact: list[Env] = [plain_inputs(self.module, self.ids[at : at + 1], self.on) for at in range(len(self.ids))]
        rounded = exact
        for index, segment in enumerate(cut[:-1]):
            clock.tick(segment.name)
            later = {value for after in cut[index + 1 :] for value in after.reads}
            block = _Block(segment, Constants(on=self.on), self.narrow, later)
            after = [block.run(env, None) for env in exact] if not index else list(in_order(block.exact, exact))
            if not index:
                exact = rounded = after
                continue
            own = block.values(self.ranges)
            if own:
                self.ranges |= self._learn(block, own, rounded, after)
            ranges = {value: _fixed(ends, self.on) for value, ends in self.ranges.items() if value in own}
            rounded = list(in_order(lambda env, b=block, r=ranges: b.run(env, r), rounded))
            exact = after
        return self.ranges

    def _learn(
        self, block: _Block, own: Mapping[ir.Value, Ends], inputs: Sequence[Env], targets: Sequence[Env]
    ) -> dict[ir.Value, Ends]:
        with torch.enable_grad():
            moved = {value: torch.zeros(2, device=self.on, requires_grad=True) for value in own}
        optimizer = torch.optim.Adam(moved.values(), lr=self.training.rate)
        before = self._loss(block, _placed(own, moved), inputs, targets)
        chance, best, found = np.random.default_rng(0), before, dict(own)
        for step in range(self.training.steps):
            chosen = chance.choice(len(inputs), min(self.training.windows, len(inputs)), replace=False)
            pairs = [(inputs[at], targets[at]) for at in chosen]
            gradients = list(in_order(lambda pair: _gradient(block, own, moved, *pair), pairs))
            for index, leaf in enumerate(moved.values()):  # in the order of the windows: the same sum every time
                leaf.grad = torch.stack([one[index] for one in gradients]).sum(0)
            for group in optimizer.param_groups:
                group["lr"] = self.training.rate * (1 - step / self.training.steps)
            optimizer.step()
        after = self._loss(block, _placed(own, moved), inputs, targets)
        if after < best:
            found = {value: _ends(*_placed(own, moved)[value]) for value in own}
        return found

    def _loss(
        self, block: _Block, ranges: Mapping[ir.Value, Range], inputs: Sequence[Env], targets: Sequence[Env]
    ) -> float:
        with torch.no_grad():
            made = in_order(lambda pair: block.loss(*pair, ranges), zip(inputs, targets, strict=True))
            return float(sum(float(one) for one in made))


Range = tuple[torch.Tensor, torch.Tensor]  # both ends, of no dimension


def _placed(own: Mapping[ir.Value, Ends], moved: Mapping[ir.Value, torch.Tensor]) -> dict[ir.Value, Range]:
    found = {}
    for value, (low, high) in own.items():
        factor = moved[value].exp()
        found[value] = (low * factor[0], high * factor[1])
    return found


def _gradient(
    block: _Block, own: Mapping[ir.Value, Ends], moved: Mapping[ir.Value, torch.Tensor], env: Env, target: Env
) -> list[torch.Tensor]:
    """Of one window's loss, for each of `moved`; from a graph of its own, which one thread makes."""
    with torch.enable_grad():
        leaves = {value: leaf.detach().clone().requires_grad_() for value, leaf in moved.items()}
        loss = block.loss(env, target, _placed(own, leaves))
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return [torch.zeros(2, device=loss.device) if one is None else one for one in found]


def _fixed(ends: Ends, on: torch.device) -> Range:
    return torch.tensor(ends[0], device=on), torch.tensor(ends[1], device=on)


def _ends(low: torch.Tensor, high: torch.Tensor) -> Ends:
    return float(low.detach()), float(high.detach())


@dataclass(frozen=True)
class _Block:
    """A segment of the decoder with its linears in 8 bits."""

    segment: Segment
    constants: Constants
    narrow: set[ir.Node]
    keep: set[ir.Value]

    def values(self, ranges: Mapping[ir.Value, Ends]) -> dict[ir.Value, Ends]:
        """The ranges of the block's own linears."""
        found: dict[ir.Value, Ends] = {}
        for node in self.segment.nodes:
            if node in self.narrow:
                found |= {v: ranges[v] for v in (node.inputs[0], node.outputs[0]) if v is not None and v in ranges}
        return found

    def exact(self, env: Env) -> Env:
        """The float block."""
        return self.run(env, None)

    def run(self, env: Env, ranges: Mapping[ir.Value, Range] | None) -> Env:
        """What `keep` names behind the block, in floats or rounded."""
        with torch.no_grad():
            return self._run(env, ranges)

    def _run(self, env: Env, ranges: Mapping[ir.Value, Range] | None) -> Env:
        values = dict(env)
        for node in self.segment.nodes:
            read = node.inputs[0] if node.inputs else None
            if ranges is None or node not in self.narrow or read is None:
                made = outputs_of(node, values, self.constants)
            else:
                x = rounded(values[read], ranges[read]) if read in ranges else values[read]
                (y,) = outputs_of(node, {**values, read: x}, self.constants)
                own = ranges.get(node.outputs[0])
                made = (y if own is None else rounded(y, own),)
            values.update(zip(node.outputs, made, strict=False))
        return {value: x for value, x in values.items() if value in self.keep}

    def loss(self, env: Env, target: Env, ranges: Mapping[ir.Value, Range]) -> torch.Tensor:
        """Mean squared error of what leaves the block, relative to the float block's."""
        made = self._run(env, ranges)
        found = [
            (x - target[value]).square().mean() / target[value].square().mean()
            for value, x in made.items()
            if value not in env and x.dtype.is_floating_point
        ]
        return torch.stack(found).sum()


def rounded(x: torch.Tensor, ends: Range) -> torch.Tensor:
    """`x` through 8-bit integers over `ends`, with the gradient of the identity through every rounding."""
    low, high = ends[0].clamp(max=0), ends[1].clamp(min=0)
    scale = ((high - low) / 255).clamp(min=1e-9)
    zero = _round(-low / scale)
    q = torch.clamp(_round(x / scale) + zero, 0, 255)
    return (q - zero) * scale


def _round(x: torch.Tensor) -> torch.Tensor:
    return x + (torch.round(x) - x).detach()
