"""Measure a profile on the calibration text, or find it in the cache."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from .clip_search import ChannelValues, ClipRange, search
from .measure import Rounded, RoundedOutput, channel_values, losses
from .profile import LinearOutliers, OutputOutliers, Profile, read
from .split import hot_rows

KIND = "outliers"
WEIGHED = 4  # windows that losses are measured on
WORTH = 0.75  # a shadow leaves less than this of the error that clip search alone leaves
_SILENT = 1e-8  # of the largest channel's square: less is no signal
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
    settings = f"{asked.coverage} {asked.max_channels} {WEIGHED} {WORTH} {asked.mode} {asked.rare} {asked.weigh}"
    key = store.key("outliers 7", calibrate.digest(ids), content(module.main.graph), repr(names), settings)

    def build(folder: Path) -> None:
        rows = _rows(module, ids, groups, asked, scope)
        rows, of_all = _weighed(module, ids, groups, rows, asked, scope)
        head = (asked.coverage, asked.max_channels, asked.mode, asked.rare)
        made = Profile(model_digest(groups), *head, of_all, tuple(rows))
        (folder / "profile.json").write_text(made.text(), encoding="utf-8")

    return read(cache.make(KIND, key, build) / "profile.json")


def _rows(module: Module, ids: np.ndarray, groups: Groups, asked: Asked, scope: Scope) -> list[LinearOutliers]:
    inputs = {value: group for group in groups if (value := group[0].node.inputs[0]) is not None}
    outputs = [] if asked.mode == "input" else [linear.node.outputs[0] for group in groups for linear in group]
    seen = channel_values(module, ids, [*inputs, *outputs], scope.progress)
    made = [_of_group(seen, value, group, asked) for value, group in inputs.items()]
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
        f"{math.floor(1000 * worst.coverage) / 10:g}%"
    )
    names = [f"`{row.name}`" for row in short if row is not worst]
    also = f"; and so it is with {count(len(names), 'other input')}, of {', '.join(names[:3])}" if names else ""
    most = max(row.needed / row.inputs for row in short)
    help = f"write `max_channels = {math.ceil(1000 * most) / 10:g}%`, or a lower `coverage`"
    at = Label(scope.origin) if scope.origin is not None else None
    return Diagnostic("E0432", message + also, at, help=help)


def _of_group(
    all_: Mapping[ir.Value, ChannelValues], value: ir.Value, group: Sequence[Linear], asked: Asked
) -> tuple[list[LinearOutliers], bool]:
    """One range and one set of channels for all linears of an input: they share the integers and the CPU's part.

    And whether its outliers lie in few channels, as far as one can tell with an eighth of them corrected.
    """
    seen = all_[value]
    weights = output_weights(seen, group)
    alone, with_hot = _both(seen, weights, asked, asked.rare)
    hot = () if asked.mode == "output" or not _worth(alone, with_hot, asked) else with_hot.hot
    few = asked.mode != "output" and search(seen, weights, max(1, len(weights) // _EIGHTH)).error < _GONE * alone.error
    values = seen.count * len(weights)
    rows = [
        LinearOutliers(
            linear.name, input_of(group), linear.shape[0], linear.shape[1], (seen.low, seen.high),
            with_hot.low, with_hot.high, hot, with_hot.coverage, with_hot.needed, with_hot.error,
            with_hot.clipped / values, alone.low, alone.high, alone.error,
            None if asked.mode == "input" else _of_output(all_[linear.node.outputs[0]], asked),
        )
        for linear in group
    ]  # fmt: skip
    return rows, few


def _both(seen: ChannelValues, weights: np.ndarray, asked: Asked, rare: int) -> tuple[ClipRange, ClipRange]:
    """The range without corrected channels, and the one with as many as are allowed."""
    return search(seen, weights, 0), search(seen, weights, asked.most(len(weights)), asked.coverage, rare)


def _worth(alone: ClipRange, with_hot: ClipRange, asked: Asked, share: float = WORTH) -> bool:
    return with_hot.coverage >= asked.coverage and with_hot.error < share * alone.error


def _of_output(seen: ChannelValues, asked: Asked) -> OutputOutliers:
    """What reads an output is not looked at: each channel counts by its error relative to itself.

    A channel costs a row of all inputs: there is a shadow only where few channels are nearly all of the error.
    """
    mean = seen.squares / seen.count
    alone, found = _both(seen, 1 / np.maximum(mean, mean.max() * _SILENT + 1e-30), asked, 0)
    hot = found.hot if _worth(alone, found, asked, _GONE) else ()
    return OutputOutliers(
        found.low, found.high, hot, found.coverage, found.needed, found.error, alone.low, alone.high, alone.error
    )


def _hot_rows(linear: Linear, hot: Sequence[int]) -> np.ndarray:
    return hot_rows(linear, hot).numpy()


def _output(found: OutputOutliers | None) -> RoundedOutput | None:
    """None where no channel is corrected: the range is then none of the profile's."""
    if found is None or not found.hot:
        return None
    alone = Encoding.over(found.alone_low, found.alone_high, "uint8")
    return RoundedOutput(Encoding.over(found.low, found.high, "uint8"), alone, found.hot)


def _weighed(
    module: Module, ids: np.ndarray, groups: Groups, rows: list[LinearOutliers], asked: Asked, scope: Scope
) -> tuple[list[LinearOutliers], float | None]:
    """The rows with what removing each shadow costs the model, as far as that is asked; what is clipped is counted."""
    by_name = {row.name: row for row in rows}
    nodes = [linear for group in groups for linear in group]
    how: dict[ir.Node, Rounded] = {}
    for linear in nodes:
        row = by_name[linear.name]
        ends, alone = (row.low, row.high), (row.alone_low, row.alone_high)
        rows_of = partial(_hot_rows, linear, row.hot)
        shadowed = Encoding.over(*(ends if row.hot else alone), "uint8")
        how[linear.node] = Rounded(
            shadowed,
            Encoding.over(*alone, "uint8"),
            row.hot,
            rows_of,
            _output(row.output),
            asked.rare if row.hot else 0,
        )
    split = [group for group in groups if any(by_name[linear.name].shadowed for linear in group)]
    if not split or not (asked.weigh or asked.rare):
        return rows, None
    weighed = split if asked.weigh else []
    members = [frozenset(linear.node for linear in group) for group in weighed]
    found, of_all, clipped = losses(module, ids[:WEIGHED], how, members, scope.progress)
    loss = {linear.name: one for group, one in zip(weighed, found, strict=True) for linear in group}
    left = {linear.name: clipped[linear.node] for linear in nodes if linear.node in clipped} if asked.rare else {}
    made = [replace(row, loss=loss.get(row.name), beyond=left.get(row.name, row.beyond)) for row in rows]
    return made, of_all if weighed else None
