"""What 8-bit activations of each linear cost the logits, in the others' floats; in torch.

    loss_j = 1/2 mean over tokens of (g_j . d_j)^2        in nats a token; the sum over j is what all of them cost
    d_j = Q(Q(x) W^T) - x W^T                             what 8 bits make of linear j alone, [N] of a token
    g_j = gradient in x W^T of the log probability of tokens that are drawn from the float model's own distribution

That is KL(p || p_j) to the second order: the mean square of such a gradient is the Fisher information (Martens 2020,
arXiv 1412.1193), and rounding of one token knows nothing of another's. The mean is over several draws: one linear's
loss may hang on few positions. One walk there and one back say it of all linears at once, a window at a time on each
core. Held: what crosses from a block to the next for all windows, the weights of one block.
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
from ...compiler.files import cache
from ...compiler.ir.activation_encodings import Encoding
from ...compiler.ir.module import Module
from ..outliers.measure import rounded
from ..solve import solution_cache as store
from .activation_ranges import content

Sides = tuple[Encoding, Encoding]  # of what a linear reads and of what it gives
_KIND = "wide"
_WINDOWS = 4
_DRAWS = 4  # of a token at each position
_LOGITS = 1 << 22  # held at once


def losses(
    module: Module, ids: np.ndarray, how: Mapping[ir.Node, Sides], progress: Callable[[str], None]
) -> dict[ir.Node, float]:
    """The loss of every linear of `how`, on the first windows of `ids` [W, S]; from the cache if it was measured."""
    ids = ids[:_WINDOWS]
    settings = {node.name or "": [(side.scale, side.zero_point) for side in sides] for node, sides in how.items()}
    key = store.key("wide 2", calibrate.digest(ids), content(module.main.graph), repr(settings))

    def build(folder: Path) -> None:
        found = _measured(module, ids, how, progress)
        text = json.dumps({node.name or "": loss for node, loss in found.items()})
        (folder / "losses.json").write_text(text, encoding="utf-8")

    held: Mapping[str, float] = json.loads((cache.make(_KIND, key, build) / "losses.json").read_text())
    return {node: held[node.name or ""] for node in how}


@one_thread_an_operation()
def _measured(
    module: Module, ids: np.ndarray, how: Mapping[ir.Node, Sides], progress: Callable[[str], None]
) -> dict[ir.Node, float]:
    on, cut = device(), segments(module.main.graph)
    clock = TimeLeft(progress, "weighing 8 bits of", [1.0] * len(cut) + [2.0] * (len(cut) - 1))
    envs = [plain_inputs(module, ids[at : at + 1], on) for at in range(len(ids))]
    kept: list[list[Env]] = []
    for index, segment in enumerate(cut[:-1]):
        clock.tick(segment.name)
        kept.append(envs)
        later = {value for after in cut[index + 1 :] for value in after.reads}
        walk = _Stretch(segment, Constants(on=on), how, later)
        envs = list(in_order(walk.forward, envs)) if index else [walk.forward(env) for env in envs]
    clock.tick(cut[-1].name)
    logits = next(value for value in module.main.graph.outputs if value.name == "logits")
    head = _Stretch(cut[-1], Constants(on=on), how, {logits})
    drawn = [torch.Generator().manual_seed(at) for at in range(len(ids))]
    pulls = list(in_order(lambda pair: head.pulls_of_tokens(*pair, logits), zip(envs, drawn, strict=True)))
    found = dict.fromkeys(how, 0.0)
    for segment, before in zip(cut[-2:0:-1], kept[:0:-1], strict=True):
        clock.tick(segment.name)
        walk = _Stretch(segment, Constants(on=on), how, set())
        made = list(in_order(lambda pair, walk=walk: walk.backward(*pair), zip(before, pulls, strict=True)))
        pulls = [pull for pull, _ in made]
        for node in walk.narrow:
            found[node] = sum(own[node] for _, own in made) / ids.size
    return found


@dataclass(frozen=True)
class _Stretch:
    """One segment: there in floats, and back with the gradients of what its linears give."""

    segment: Segment
    constants: Constants
    how: Mapping[ir.Node, Sides]
    keep: set[ir.Value]

    @property
    def narrow(self) -> list[ir.Node]:
        """Its linears that are asked about."""
        return [node for node in self.segment.nodes if node in self.how]

    def forward(self, env: Env) -> Env:
        """What later segments read, of `env` and of this one."""
        with torch.no_grad():
            return {value: x for value, x in self._values(env).items() if value in self.keep}

    def _values(self, env: Env) -> Env:
        return all_values(self.segment.nodes, env, self.constants)

    def pulls_of_tokens(self, env: Env, drawn: torch.Generator, logits: ir.Value) -> list[Env]:
        """For each draw the gradients of the drawn tokens' log probabilities, by what the head reads.

        A head looks at positions one by one, so that it is run on some of them at a time.
        """
        vocabulary = logits.shape[-1] if logits.shape is not None else None
        step = max(1, _LOGITS // vocabulary) if isinstance(vocabulary, int) else None
        whole = {value: x for value, x in env.items() if value in self.segment.reads}
        parts: list[list[Env]] = []
        length = max(x.shape[1] for x in whole.values() if x.dim() == 3)
        for at in range(0, length, step or length):
            with torch.enable_grad():
                some = {value: x[:, at : at + (step or length)] for value, x in whole.items()}
                leaves = _leaves(some, self.segment.reads)
                p = torch.log_softmax(self._values({**some, **leaves})[logits][0], -1)
                parts.append([_given(leaves, _gradient(_score(p, drawn), leaves)) for _ in range(_DRAWS)])
        each = zip(*parts, strict=True)
        return [{value: torch.cat([part[value] for part in own], 1) for value in own[0]} for own in each]

    def backward(self, env: Env, pulls: list[Env]) -> tuple[list[Env], dict[ir.Node, float]]:
        """From the gradients behind the segment to those in front of it; the sum over tokens of each linear's loss."""
        with torch.enable_grad():
            leaves = _leaves(env, self.segment.reads)
            values = self._values({**env, **leaves})
        with torch.no_grad():
            away = {node: self._away(node, values) for node in self.narrow}
        made, lost = [], dict.fromkeys(away, 0.0)
        for pull in pulls:
            through, own = _back(env, leaves, values, pull, [node.outputs[0] for node in away])
            made.append(through)
            for (node, d), g in zip(away.items(), own, strict=True):
                if g is not None:
                    lost[node] += 0.5 * float((g * d).sum(-1).double().square().sum()) / len(pulls)
        return made, lost

    def _away(self, node: ir.Node, values: Env) -> torch.Tensor:
        """What 8 bits on both sides change in a linear's output."""
        read, made = node.inputs[0], values[node.outputs[0]].detach()
        if read is None:
            return torch.zeros_like(made)
        reads, gives = self.how[node]
        (rough,) = outputs_of(node, {**values, read: rounded(values[read].detach(), reads)}, self.constants)
        return rounded(rough, gives) - made


def _score(p: torch.Tensor, drawn: torch.Generator) -> torch.Tensor:
    """The sum over positions of one drawn token's log probability; `p` [S, V] are the logarithms."""
    tokens = torch.multinomial(p.detach().exp().cpu(), 1, generator=drawn).to(p.device)
    return p.gather(1, tokens).sum()


def _gradient(score: torch.Tensor, leaves: Env) -> Sequence[torch.Tensor | None]:
    return torch.autograd.grad(score, list(leaves.values()), allow_unused=True, retain_graph=True)


def _back(
    env: Env, leaves: Env, values: Env, pulls: Env, asked: Sequence[ir.Value]
) -> tuple[Env, Sequence[torch.Tensor | None]]:
    """The gradients in front of a segment that those behind it give, and those of the values `asked`."""
    ends = [(values[value], pull) for value, pull in pulls.items() if value not in env]
    wanted = [*(values[value] for value in asked), *leaves.values()]
    behind = [pull for _, pull in ends]
    found = torch.autograd.grad([x for x, _ in ends], wanted, behind, allow_unused=True, retain_graph=True)
    through = {value: pull for value, pull in pulls.items() if value in env}
    for value, pull in _given(leaves, found[len(asked) :]).items():
        through[value] = pull if value not in through else through[value] + pull
    return through, found[: len(asked)]


def _leaves(env: Env, reads: Sequence[ir.Value]) -> Env:
    """What a segment reads of floats, to have gradients of."""
    return {
        value: env[value].detach().requires_grad_()
        for value in reads
        if value in env and env[value].is_floating_point() and not value.is_graph_input()
    }


def _given(leaves: Env, found: Sequence[torch.Tensor | None]) -> Env:
    return {value: pull for value, pull in zip(leaves, found, strict=True) if pull is not None}
