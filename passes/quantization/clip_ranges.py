"""Ranges of 8-bit inputs by clip search: those of the least error of what the linears make of them.

    range(x) = argmin_t sum_k w_k (rounding_k(t) + clipping_k(t)),   w_k = sum_n W[n, k]^2 over all linears that read x

`mse` asks what is lost of x; this asks what is lost of W x. The difference is a channel that is large and multiplied by
little (`outliers/clip_search.py` has the cost).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...compiler.calibration import windows as calibrate
from ...compiler.files import cache
from ...compiler.ir.linears import Linear, as_linear
from ...compiler.ir.module import Module
from ..outliers.clip_search import ChannelValues, search
from ..outliers.measure import channel_values
from ..solve import solution_cache as store
from .activation_ranges import content

Ends = tuple[float, float]
_KIND = "clip"


def readers(narrow: Iterable[ir.Node]) -> dict[ir.Value, list[Linear]]:
    """What each input of linears in 8 bits is read by, in running order."""
    found: dict[ir.Value, list[Linear]] = {}
    for node in narrow:
        linear, read = as_linear(node), node.inputs[0]
        if linear is not None and read is not None:
            found.setdefault(read, []).append(linear)
    return found


def clip_ranges(
    module: Module, ids: np.ndarray, narrow: Sequence[ir.Node], progress: Callable[[str], None]
) -> dict[ir.Value, Ends]:
    """The range of every input of the linears `narrow`; from the cache if the same was searched before."""
    inputs = readers(narrow)
    names = [value.name or "" for value in inputs]
    key = store.key("clip 1", calibrate.digest(ids), content(module.main.graph), repr(names))

    def build(folder: Path) -> None:
        seen = channel_values(module, ids, inputs, progress)
        made = {value.name: _of_input(seen[value], own) for value, own in inputs.items()}
        (folder / "ranges.json").write_text(json.dumps(made), encoding="utf-8")

    held: Mapping[str, Sequence[float]] = json.loads((cache.make(_KIND, key, build) / "ranges.json").read_text())
    return {value: (held[value.name or ""][0], held[value.name or ""][1]) for value in inputs}


def _of_input(seen: ChannelValues, own: Sequence[Linear]) -> Ends:
    found = search(seen, output_weights(seen, own), 0)
    return found.low, found.high


def output_weights(seen: ChannelValues, own: Sequence[Linear]) -> np.ndarray:
    """The w_k [K] of linears of one input, each as a share of its own output."""
    made, mean = np.zeros(len(seen.squares)), seen.squares / seen.count
    for linear in own:
        squares = np.zeros(linear.shape[1])
        for _, block in linear.weight().blocks():
            squares += np.square(block, dtype=np.float64).sum(0)
        made += squares / (float((squares * mean).sum()) or 1.0)
    return made
