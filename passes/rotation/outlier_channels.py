"""Channels whose values stand far out: of hidden states, and of what down_proj reads.

    m_k = max |x_k| over all tokens, of the hidden states over all of these too

    hidden states   m_k > 8 median m     R = product of reflections, one a channel k: row k of R becomes u_k
    down_proj's     m_k > 64 median m    up_proj's row k / c, down_proj's column k * c    c = m_k / (64 median m) <= 8

Most decoders keep one huge number in a channel or two of their first token (Sun et al. 2024, arXiv 2402.17762), which
the MLPs of two or three layers write. It sets the one scale that a tensor has, and every other value is rounded to a
step that it makes large. u_k are rows of Hartley's matrix, so that each channel gets at most sqrt(2 / H) of an outlier.
A reflection moves other channels by about 1 / sqrt(H) of one direction: their weights stay nearly what they were, and
4 bits hold them as well as before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ...compiler.calibration import windows as calibrate
from ...compiler.calibration.cores import in_order, one_thread_an_operation
from ...compiler.calibration.time_left import TimeLeft
from ...compiler.calibration.torch_graph import Constants, Env, Segment, all_values, device, plain_inputs, segments
from ...compiler.files import cache
from ...compiler.ir.linears import linears
from ...compiler.ir.module import Module
from ..quantization.activation_ranges import content
from ..solve import solution_cache as store
from ..solve.awq import feeder, fold, scalable, widen_readers
from ..solve.residual_streams import ResidualStreams
from .rewrite import hartley

_WINDOWS = 16  # an outlier is there in every text
_FAR, _FAR_INSIDE = 8.0, 64.0
_LARGEST_FACTOR = 8.0
_KIND = "outlier-channels"


@dataclass(frozen=True)
class Largest:
    """m of hidden states [H], and of what each down_proj reads [I], by the name of that value."""

    hidden: np.ndarray
    inside: dict[str, np.ndarray]

    def outliers(self) -> dict[int, float]:
        """Hidden channel -> its largest value, of those that stand out, largest first."""
        far = np.flatnonzero(self.hidden > _FAR * np.median(self.hidden))
        return {int(k): float(self.hidden[k]) for k in far[np.argsort(-self.hidden[far], kind="stable")]}

    def factors(self) -> dict[str, np.ndarray]:
        """c [I] of the values in MLPs that have outliers."""
        made = {}
        for name, seen in self.inside.items():
            limit = _FAR_INSIDE * float(np.median(seen))
            if limit > 0 and seen.max() > limit:
                made[name] = np.clip(seen / limit, 1.0, _LARGEST_FACTOR).astype(np.float32)
        return made


def largest(module: Module, ids: np.ndarray, progress: Callable[[str], None]) -> Largest:
    """`measure` on the first windows of `ids` [W, S]; from the cache if the same was measured before."""
    ids = ids[:_WINDOWS]
    key = store.key("outlier channels 1", calibrate.digest(ids), content(module.main.graph))

    def build(folder: Path) -> None:
        seen = measure(module, ids, progress)
        arrays: dict[str, Any] = {"hidden": seen.hidden, **seen.inside}
        np.savez(folder / "largest.npz", **arrays)

    with np.load(cache.make(_KIND, key, build) / "largest.npz") as held:
        arrays = {name: held[name] for name in held.files}
    return Largest(arrays.pop("hidden"), arrays)


@one_thread_an_operation()
def measure(module: Module, ids: np.ndarray, progress: Callable[[str], None] = lambda _text: None) -> Largest:
    """What the float model's channels reach over the windows `ids`."""
    arch, on = module.arch, device()
    if arch is None:
        raise ValueError(f"module `{module.name}` is no decoder")
    cut = segments(module.main.graph)[:-1]
    inside = {x.node.inputs[0] for x in linears(module) if x.name.endswith(".down_proj")}
    clock = TimeLeft(progress, "hidden states of", [1.0] * len(cut))
    envs: list[Env] = [plain_inputs(module, ids[at : at + 1], on) for at in range(len(ids))]
    hidden, found = torch.zeros(arch.hidden, device=on), dict[str, np.ndarray]()
    for index, segment in enumerate(cut):
        clock.tick(segment.name)
        later = {value for after in cut[index + 1 :] for value in after.reads}
        states = _states(segment, arch.hidden)
        wanted = [*states, *(v for node in segment.nodes for v in node.outputs if v in inside)]
        walk = partial(_walk, segment, Constants(on=on), wanted, later)
        made = [walk(env) for env in envs] if not index else list(in_order(walk, envs))
        envs = [env for env, _ in made]
        for place, value in enumerate(wanted):
            seen = torch.stack([tops[place] for _, tops in made]).amax(0)
            if value in inside:
                found[value.name or ""] = seen.cpu().numpy()
            else:
                hidden = torch.maximum(hidden, seen)
    return Largest(hidden.cpu().numpy(), found)


def _walk(
    segment: Segment, constants: Constants, wanted: Sequence[ir.Value], later: set[ir.Value], env: Env
) -> tuple[Env, list[torch.Tensor]]:
    """What is read behind the segment, and the largest magnitudes by channel of the values `wanted`."""
    with torch.no_grad():
        values = all_values(segment.nodes, env, constants)
    tops = [values[value].abs().flatten(0, -2).amax(0) for value in wanted]
    return {value: x for value, x in values.items() if value in later}, tops


def _states(segment: Segment, hidden: int) -> list[ir.Value]:
    """The hidden states that a segment makes: what is looked up, and sums."""
    return [
        node.outputs[0]
        for node in segment.nodes
        if node.op_type in ("Add", "Gather") and (shape := node.outputs[0].shape) is not None and shape[-1] == hidden
    ]


def spreading(size: int, channels: list[int], seed: int) -> np.ndarray:
    """R [H, H], orthogonal and near the identity, but for the rows `channels`, whose numbers are all small."""
    r, signs = np.eye(size), np.random.default_rng(seed).choice([-1.0, 1.0], size)
    for row, k in zip(hartley(len(channels), size) * signs / np.sqrt(size), channels, strict=True):
        v = r[k] - row
        length = float(v @ v)
        if length > 1e-12:
            r -= np.outer(r @ v, v) * (2 / length)
    return r


def even_out(module: Module, factors: dict[str, np.ndarray]) -> int:
    """Divide what down_proj reads by `factors` of `Largest`, folded into the weights; how many were changed."""
    flow, changes = ResidualStreams(module, {}), 0
    for linear in list(flow.linears.values()):
        value = linear.node.inputs[0]
        c = None if value is None else factors.get(value.name or "")
        feed = None if value is None or c is None else feeder(flow, value)
        if value is None or c is None or feed is None or scalable(flow, value, feed) is not None:
            continue
        widen_readers(flow, value, torch.from_numpy(c), feed)
        fold(module, feed, torch.from_numpy(c))
        flow.refresh()
        changes += 1
    return changes
