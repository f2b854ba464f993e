"""Solved weights with their scales learned end to end, as entries of the cache beside those they were learned from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...compiler.calibration import windows as calibrate
from ...compiler.ir.weight_format import TWO_LEVEL
from ...compiler.pipeline.pass_interface import Scope
from ..quantization.round_to_nearest import QuantizedTensors
from . import solution_cache as store
from .integer_grid import half
from .residual_streams import ResidualStreams
from .tune_scales import ScaleTuning, Tune
from .weight_to_solve import WeightToSolve


def tuned(
    flow: ResidualStreams,
    wanted: Mapping[str, WeightToSolve],
    keys: Mapping[str, str],
    windows: tuple[np.ndarray, np.ndarray],
    tune: Tune,
    scope: Scope,
    seconds: float,
) -> dict[str, str]:
    """The keys of all linears, those of decoder blocks with learned scales; `keys` are those they were solved under.

    `windows` are those to learn from, and those to judge on, which no solver has seen either. It may take about
    `seconds`, 0: as long as it takes.
    """
    inside = [name for segment in flow.segments[1:-1] for _, names in flow.groups(segment) for name in names]
    if not inside:
        return dict(keys)
    if not len(windows[1]):
        scope.note("tune: one window is too few to learn from and to judge on: scales stay as they were")
        return dict(keys)
    formats = {name: one.words for name, one in wanted.items()}
    contents = [flow.content(segment, formats) for segment in flow.segments]
    before = [keys[name] for name in sorted(keys)]
    digests = [calibrate.digest(ids) for ids in windows]
    state = store.key("tuned", *digests, *contents, *before, repr(tune), f"{seconds:g}")
    made = {name: store.key(state, name) for name in inside}
    if not all(store.known(key) for key in made.values()):
        solved = {name: wanted[name].loaded(name, key) for name, key in keys.items()}
        outside = {name: one.value() for name, one in solved.items() if name not in made}
        two = {name for name in inside if wanted[name].format_.scales == TWO_LEVEL}
        learning = ScaleTuning(flow, windows, {name: solved[name] for name in inside}, outside, two, tune)
        got = learning.learn(scope.progress, seconds)
        for name, key in made.items():
            notes = [got.words(seconds)] if name == inside[0] else []
            store.keep(key, [_scaled(solved[name], got.factors.get(name), notes)])
    for text in store.notes(made[inside[0]]):
        scope.note(text)
    return {**keys, **made}


def _scaled(made: QuantizedTensors, factor: torch.Tensor | None, notes: list[str]) -> store.Solution:
    """With scales times `factor` [N, K/B] or [N, 1], as float16; None: as they are."""
    scale = made.scale.numpy().astype(np.float32)
    if factor is not None:
        scale = half(torch.from_numpy(scale).reshape(len(scale), -1) * factor.cpu()).numpy().reshape(scale.shape)
    zero = None if made.zero_point is None else made.zero_point.numpy().astype(np.uint8)
    q = made.q.numpy().astype(np.int8 if zero is None else np.uint8)
    return store.Solution(q, scale.astype(np.float16), zero, notes)
