"""Measure a profile on the calibration text, or find it in the cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...compiler.calibration import windows as calibrate
from ...compiler.diagnostics.diagnostic import Diagnostic, Label, PlanError, fail
from ...compiler.diagnostics.wording import count
from ...compiler.files import cache
from ...compiler.ir.activation_encodings import Encoding
from ...compiler.ir.linears import Linear
from ...compiler.ir.module import Module
from ...compiler.pipeline.pass_interface import Scope
from ..quantization.activation_ranges import content
from ..quantization.clip_ranges import output_weights
from ..solve import solution_cache as store
from .asked import Asked, Groups, input_of, model_digest
from .clip_search import ChannelValues, search
from .measure import Rounded, channel_values, losses
from .profile import LinearOutliers, Profile, read
from .split import hot_rows

KIND = "outliers"
WEIGHED = 4  # windows that losses are measured on
WORTH = 0.75  # a shadow leaves less than this of the error that clip search alone leaves
_EIGHTH, _GONE = 8, 0.1  # of the channels corrected leave less than this of it, where outliers lie in few channels


def measured(module: Module, groups: Groups, asked: Asked, scope: Scope) -> Profile:
    """The profile of all linears of `groups`."""
    if scope.calibration is None:
        fail(
            "E0454",
            "`shadow` needs a `calibration` block, but the plan has none",
            scope.origin,
            help='add `calibration { text = "calib/*.txt" }`, or leave out `shadow`',
        )
    ids = calibrate.windows(scope.calibration, module)
    names = [[linear.name for linear in group] for group in groups]
    settings = f"{asked.coverage} {asked.max_channels} {WEIGHED} {WORTH}"
    key = store.key("outliers 2", calibrate.digest(ids), content(module.main.graph), repr(names), settings)

    def build(folder: Path) -> None:
        rows = _rows(module, ids, groups, asked, scope)
        rows, of_all = _weighed(module, ids, groups, rows, scope)
        made = Profile(model_digest(groups), asked.coverage, asked.max_channels, of_all, tuple(rows))
        (folder / "profile.json").write_text(made.text(), encoding="utf-8")

    return read(cache.make(KIND, key, build) / "profile.json")


def _rows(module: Module, ids: np.ndarray, groups: Groups, asked: Asked, scope: Scope) -> list[LinearOutliers]:
    inputs = {group[0].node.inputs[0]: group for group in groups}
    seen = channel_values(module, ids, [value for value in inputs if value is not None], scope.progress)
    made = [_of_group(seen[value], group, asked) for value, group in inputs.items() if value is not None]
    short = [rows[0] for rows, few in made if few and rows[0].coverage < asked.coverage]
    if short:
        raise PlanError(_too_few(short, asked, scope))
    return [row for rows, _ in made for row in rows]


def _too_few(short: Sequence[LinearOutliers], asked: Asked, scope: Scope) -> Diagnostic:
    """E0432 for linears whose outliers lie in few channels, but in more than are allowed."""
    worst = max(short, key=lambda row: row.needed / row.inputs)
    message = (
        f"`coverage = {100 * asked.coverage:g}%` needs {worst.needed} of the {worst.inputs} channels of "
        f"`{worst.name}`, `max_channels = {100 * asked.max_channels:g}%` are {asked.most(worst.inputs)}, which reach "
        f"{worst.coverage:.1%}"
    )
    names = [f"`{row.name}`" for row in short if row is not worst]
    also = f"; and so it is with {count(len(names), 'other input')}, of {', '.join(names[:3])}" if names else ""
    most = max(row.needed / row.inputs for row in short)
    help = f"write `max_channels = {math.ceil(1000 * most) / 10:g}%`, or a lower `coverage`"
    at = Label(scope.origin) if scope.origin is not None else None
    return Diagnostic("E0432", message + also, at, help=help)


def _of_group(seen: ChannelValues, group: Sequence[Linear], asked: Asked) -> tuple[list[LinearOutliers], bool]:
    """One range and one set of channels for all linears of an input: they share the integers and the CPU's part.

    And whether its outliers lie in few channels, as far as one can tell with an eighth of them corrected.
    """
    weights = output_weights(seen, group)
    alone = search(seen, weights, 0)
    with_hot = search(seen, weights, asked.most(len(weights)), asked.coverage)
    useful = with_hot.coverage >= asked.coverage and with_hot.error < WORTH * alone.error
    hot = with_hot.hot if useful else ()
    few = search(seen, weights, max(1, len(weights) // _EIGHTH)).error < _GONE * alone.error
    values = seen.count * len(weights)
    rows = [
        LinearOutliers(
            linear.name, input_of(group), linear.shape[0], linear.shape[1], (seen.low, seen.high),
            with_hot.low, with_hot.high, hot, with_hot.coverage, with_hot.needed, with_hot.error,
            with_hot.clipped / values, alone.low, alone.high, alone.error,
        )
        for linear in group
    ]  # fmt: skip
    return rows, few


def _hot_rows(linear: Linear, hot: Sequence[int]) -> np.ndarray:
    return hot_rows(linear, hot).numpy()


def _weighed(
    module: Module, ids: np.ndarray, groups: Groups, rows: list[LinearOutliers], scope: Scope
) -> tuple[list[LinearOutliers], float | None]:
    """The rows with what removing each shadow costs the model."""
    by_name = {row.name: row for row in rows}
    nodes = [linear for group in groups for linear in group]
    how: dict[ir.Node, Rounded] = {}
    for linear in nodes:
        row = by_name[linear.name]
        ends, alone = (row.low, row.high), (row.alone_low, row.alone_high)
        rows_of = partial(_hot_rows, linear, row.hot)
        how[linear.node] = Rounded(Encoding.over(*ends, "uint8"), Encoding.over(*alone, "uint8"), row.hot, rows_of)
    split = [group for group in groups if by_name[group[0].name].hot]
    if not split:
        return rows, None
    members = [frozenset(linear.node for linear in group) for group in split]
    found, of_all = losses(module, ids[:WEIGHED], how, members, scope.progress)
    loss = {linear.name: one for group, one in zip(split, found, strict=True) for linear in group}
    return [replace(row, loss=loss.get(row.name)) for row in rows], of_all
