"""Scales learned end to end: those of all decoder blocks together, against the float model's next-token distribution.

    minimise   mean KL( softmax f(ids; W) | softmax f(ids; Q) )        Q = (q - zero) * s * exp(t)

t [N, K/B] is learned, or [N, 1] where scales have two levels: then c exp(t) is rounded to what c can be whenever it is
judged, and not while it is learned. The integers q stay as they were solved, and so does what lies in front of the
first block and behind the last (EfficientQAT's second phase, arXiv 2407.11062, section 3.3).

The integers of a segment are read from the cache's files whenever it is run: held are s, t and Adam's two moments,
16 bytes a scale, beside what end_to_end.py holds. t is kept as it was when windows that no solver has seen diverged
least, which may be before the first step: on those that gptq has fitted, whatever leaves its answer looks worse.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ...compiler.calibration.time_left import TimeLeft, duration
from ...compiler.ir.weights import Weight
from ..quantization.round_to_nearest import QuantizedTensors
from .end_to_end import EndToEnd
from .residual_streams import ResidualStreams
from .two_level_grid import channel, channel_of

_WARM = 5  # steps until the rate is reached


@dataclass(frozen=True)
class Tune:
    """Adam's settings; `batch` in windows, `judges` as many windows apart as are judged on."""

    epochs: int = 2
    batch: int = 8
    judges: int = 16
    rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Tuned:
    """What was learned: factors of scales, steps, and the divergence of the windows kept apart, before and after."""

    factors: Mapping[str, torch.Tensor]
    steps: int
    planned: int
    before: float
    after: float
    windows: int

    def words(self, seconds: float) -> str:
        """For the report."""
        done = f"{self.steps} steps"
        if self.steps < self.planned:
            done = f"{self.steps} of {self.planned} steps, to end within {duration(seconds)[6:]}"
        judged = f"on {self.windows} windows that no solver saw"
        if not self.factors:
            return f"tune: {done} brought nothing {judged} (divergence {self.before:.4f}): scales stay as they were"
        return f"tune: scales learned in {done}; divergence {judged} {self.before:.4f} before, {self.after:.4f} after"


class _Scaled:
    """One linear: integers read from their file whenever they are needed, scales [N, K/B] held, factors learned."""

    def __init__(self, made: QuantizedTensors, one_a_row: bool, on: torch.device) -> None:
        self.made, self.on, self.ships = made, on, False
        self.scale = self._read(made.scale).reshape(made.q.dims[0], -1)
        self.channel = channel_of(self.scale) if one_a_row else None
        self.t = self.scale.new_zeros(len(self.scale), 1 if one_a_row else self.scale.shape[1])
        self.mean, self.square = torch.zeros_like(self.t), torch.zeros_like(self.t)

    def integers(self) -> torch.Tensor:
        """q - zero [N, K/B, B]."""
        q = self._read(self.made.q).reshape(*self.scale.shape, -1)
        if self.made.zero_point is not None:
            q -= self._read(self.made.zero_point).reshape(*self.scale.shape, 1)
        return q

    def _read(self, weight: Weight) -> torch.Tensor:
        return torch.from_numpy(weight.numpy().astype(np.float32)).to(self.on)

    def factor(self) -> torch.Tensor:
        """What scales are multiplied by, [N, K/B] or [N, 1]; as it can be stored if it `ships`."""
        made = self.t.exp()
        return channel(self.channel * made) / self.channel if self.ships and self.channel is not None else made

    def value(self) -> torch.Tensor:
        return (self.integers() * (self.scale * self.factor())[..., None]).reshape(len(self.scale), -1)

    def gradient(self, of_value: torch.Tensor) -> torch.Tensor:
        """That of t, from that of the value [N, K]."""
        integers = self.integers()
        made = (of_value.reshape(integers.shape) * integers).sum(-1) * self.scale * self.factor()
        return made.sum(1, keepdim=True) if self.t.shape[1] == 1 else made

    def step(self, gradient: torch.Tensor, rate: float, step: int) -> None:
        """Adam with betas 0.9 and 0.99."""
        self.mean.lerp_(gradient, 0.1)
        self.square.lerp_(gradient * gradient, 0.01)
        spread = (self.square / (1 - 0.99**step)).sqrt_() + 1e-12
        self.t -= rate * (self.mean / (1 - 0.9**step)) / spread


class ScaleTuning:
    """Learns the factors of `solved`, all linears of the decoder blocks that a line quantises.

    `windows` [W, S] are those to learn from and those to judge on; `outside` is what else the line quantises,
    dequantised; the linears of `one_a_row` get one factor an output.
    """

    def __init__(
        self,
        flow: ResidualStreams,
        windows: tuple[np.ndarray, np.ndarray],
        solved: Mapping[str, QuantizedTensors],
        outside: Mapping[str, Weight],
        one_a_row: Collection[str],
        settings: Tune,
    ) -> None:
        self.settings = settings
        self.linears = {name: _Scaled(made, name in one_a_row, flow.on) for name, made in solved.items()}
        self.model = EndToEnd(flow, np.concatenate(windows), self._values, outside)
        self.learned = list(range(len(windows[0])))
        self.judges = list(range(len(windows[0]), len(windows[0]) + len(windows[1])))

    def _values(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        return {name: self.linears[name].value() for name in names}

    def learn(self, say: Callable[[str], None], seconds: float = 0.0) -> Tuned:
        """All steps, or as many as `seconds` allow (0: all of them); progress goes to `say`."""
        planned = steps = self.settings.epochs * len(self.learned) // self.settings.batch
        start = time.perf_counter()
        before = best = self._judged()
        judging, factors = time.perf_counter() - start, dict[str, torch.Tensor]()
        chance, order = torch.Generator().manual_seed(self.settings.seed), list[int]()
        clock, step = TimeLeft(say, "tune", [1.0] * steps), 0
        while step < steps:
            if len(order) < self.settings.batch:
                order = [self.learned[i] for i in torch.randperm(len(self.learned), generator=chance).tolist()]
            pick, order = order[: self.settings.batch], order[self.settings.batch :]
            clock.tick("scales")
            begun = time.perf_counter()
            self._step(pick, step + 1, steps)
            step += 1
            if step == 1 and seconds:
                left, one = seconds - judging * 2 - (begun - start - judging), time.perf_counter() - begun
                steps = max(1, min(planned, int(left / one)))
            if step == steps or step == steps // 2:
                after = self._judged()
                if after < best:
                    best, factors = after, self._factors()
        return Tuned(factors, steps, planned, before, best, len(self.judges))

    def _judged(self) -> float:
        """The divergence of the windows that are not learned from."""
        size = self.settings.batch
        parts = [self.judges[at : at + size] for at in range(0, len(self.judges), size)]
        with self._as_it_ships():
            return sum(len(part) * self.model.divergence(part) for part in parts) / len(self.judges)

    def _factors(self) -> dict[str, torch.Tensor]:
        with self._as_it_ships():
            return {name: one.factor() for name, one in self.linears.items()}

    @contextmanager
    def _as_it_ships(self) -> Iterator[None]:
        for one in self.linears.values():
            one.ships = True
        yield
        for one in self.linears.values():
            one.ships = False

    def _step(self, pick: Sequence[int], step: int, steps: int) -> None:
        rate = self.settings.rate * min(1.0, step / _WARM) * 0.5 * (1 + math.cos(math.pi * step / (steps + 1)))
        found = {name: self.linears[name].gradient(g) for name, g in self.model.gradients(pick)}
        for name, gradient in found.items():
            self.linears[name].step(gradient, rate, step)
