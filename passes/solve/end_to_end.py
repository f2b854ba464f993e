"""The decoder with other weights beside the float one: the divergence of the two, and its gradients in the weights.

    mean over positions of  KL( softmax f(ids; W) | softmax f(ids; V) )                ids [windows, S]

Windows go forward through all segments; the residual stream is kept between them and each segment is computed again on
the way back. In memory: the float model's streams behind the last block [W, S, H], one batch's streams at every
boundary, the weights of one segment, and those of the head, twice if `solved` has another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce

import numpy as np
import torch

from ...compiler.calibration.cores import in_order
from ...compiler.calibration.torch_graph import Constants, Segment, run
from ...compiler.ir.weights import Weight
from .residual_streams import ResidualStreams

Values = Callable[[Sequence[str]], Mapping[str, torch.Tensor]]  # weights [N, K] of the linears of a segment
_PARTS = 2  # of a batch, each on a core
_LOGITS = 1 << 22  # held at once


class EndToEnd:
    """`flow` walks the decoder; `values` gives what stands for its blocks' weights, `outside` what does elsewhere."""

    def __init__(self, flow: ResidualStreams, ids: np.ndarray, values: Values, outside: Mapping[str, Weight]) -> None:
        self.flow, self.ids, self.values = flow, ids, values
        self.blocks, self.head = flow.segments[1:-1], flow.segments[-1]
        self.tables = {name: w for name, w in outside.items() if flow.linears[name].kind == "gather"}
        self.boundaries = [flow.entry(), *(flow.output(segment) for segment in self.blocks)]
        self.float_head = self.own_head = flow.constants({})
        behind = [name for _, names in flow.groups(self.head) for name in names]
        if behind:
            made = {name: torch.from_numpy(outside[name].numpy()).to(flow.on) for name in behind}
            self.own_head = flow.constants({name: flow.oriented(name, w) for name, w in made.items()})
        flow.start(ids, {})
        for segment in self.blocks:
            flow.advance(segment, {})
        self.targets = [window for batch in flow.reference for window in batch.split(1)]

    def names(self, segment: Segment) -> list[str]:
        """The segment's linears whose weights `values` gives."""
        return [name for _, names in self.flow.groups(segment) for name in names]

    def divergence(self, pick: Sequence[int]) -> float:
        """Of the windows `pick`."""
        with torch.no_grad():
            *_, last = self._forward(pick)
            made = in_order(lambda both: self._compared(*both, False)[0], self._beside(last, pick))
            return sum(made) / (len(pick) * self.ids.shape[1])

    def gradients(self, pick: Sequence[int]) -> Iterator[tuple[str, torch.Tensor]]:
        """Of the windows' divergence in each weight [N, K], from the last block to the first."""
        with torch.no_grad():
            kept = list(self._forward(pick))
        made = in_order(lambda both: self._compared(*both, True)[1], self._beside(kept.pop(), pick))
        pulls = [pull / (len(pick) * self.ids.shape[1]) for pull in made]
        for place in reversed(range(len(self.blocks))):
            pulls, sums = self._back(place, kept.pop(), pulls)
            yield from sums.items()

    def _forward(self, pick: Sequence[int]) -> Iterator[list[torch.Tensor]]:
        """The residual streams at every boundary, in parts of the batch."""
        self.flow.forget()
        self.flow.start(self.ids[list(pick)], self.tables)
        streams = torch.cat(self.flow.solved)
        parts = list(streams.split(-(-len(streams) // _PARTS)))
        yield parts
        for place, segment in enumerate(self.blocks):
            constants = self._constants(self.values(self.names(segment)))
            parts = list(in_order(lambda x, at=place, held=constants: self._run(at, x, held), parts))
            yield parts

    def _constants(self, weights: Mapping[str, torch.Tensor]) -> Constants:
        return self.flow.constants({name: self.flow.oriented(name, w) for name, w in weights.items()})

    def _run(self, place: int, x: torch.Tensor, constants: Constants) -> torch.Tensor:
        """The stream behind block `place`."""
        env = {**self.flow.shared, self.boundaries[place]: x}
        return run(self.blocks[place].nodes, env, constants, [self.boundaries[place + 1]])[0]

    def _back(
        self, place: int, parts: Sequence[torch.Tensor], pulls: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """From the gradients behind block `place` to those in front of it, and those of its weights."""
        weights = self.values(self.names(self.blocks[place]))

        def back(both: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
            x, pull = both
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
                made = self._run(place, x, self._constants(leaves))
                return torch.autograd.grad(made, [x, *leaves.values()], pull)

        made = list(in_order(back, zip(parts, pulls, strict=True)))
        sums = [reduce(torch.add, some) for some in zip(*(one[1:] for one in made), strict=True)]
        return [one[0] for one in made], dict(zip(weights, sums, strict=True))

    def _beside(
        self, parts: Sequence[torch.Tensor], pick: Sequence[int]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Each part with the float model's streams for the same windows."""
        at = 0
        for part in parts:
            yield part, torch.cat([self.targets[i] for i in pick[at : at + len(part)]])
            at += len(part)

    def _compared(self, x: torch.Tensor, target: torch.Tensor, graded: bool) -> tuple[float, torch.Tensor]:
        """The sum of divergences behind streams x [B, S, H], and its gradient in x (x itself if not `graded`)."""
        logits = self.flow.output(self.head)

        def of(stream: torch.Tensor, constants: Constants) -> torch.Tensor:
            env = {**self.flow.shared, self.boundaries[-1]: stream}
            return torch.log_softmax(run(self.head.nodes, env, constants, [logits])[0], -1)

        vocab = logits.shape[-1] if logits.shape is not None else None
        step = max(1, _LOGITS // vocab) if isinstance(vocab, int) else x.shape[1]
        total, rows = 0.0, []
        for window in range(len(x)):
            pulls = []
            for at in range(0, x.shape[1], step):
                own = (slice(window, window + 1), slice(at, at + step))
                with torch.no_grad():
                    p = of(target[own], self.float_head)
                with torch.set_grad_enabled(graded):
                    leaf = x[own].detach().requires_grad_(graded)
                    lost = (p.exp() * (p - of(leaf, self.own_head))).sum()
                    pulls.append(torch.autograd.grad(lost, leaf)[0] if graded else leaf)
                total += lost.item()
            rows.append(torch.cat(pulls, 1))
        return total, torch.cat(rows)
