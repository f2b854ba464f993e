"""Inputs that a user gives for a graph: `sample = "inputs.npz"` in a `model` block.

    one call        an array for each input, of its shape
    several calls   arrays with one axis more in front, [N, ...]; or several files

Arrays are read when they are asked for; a module holds the names of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..files import npz

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Samples:
    """Calls of a graph that lie in .npz files: `calls` of each file, 0 where its arrays are those of one call."""

    files: tuple[Path, ...] = ()
    calls: tuple[int, ...] = ()
    names: frozenset[str] = frozenset()  # of the graph's inputs

    def __len__(self) -> int:
        return sum(max(1, count) for count in self.calls)

    def feeds(self, graph: ir.Graph, most: int | None = None) -> Iterator[Feeds]:
        """The inputs of each call, at most `most` of them, in the types of `graph`'s inputs."""
        left = len(self) if most is None else most
        for file, count in zip(self.files, self.calls, strict=True):
            if left <= 0:
                return
            arrays = npz.read(file)
            for at in range(max(1, count))[:left]:
                yield {value.name or "": _one(arrays[value.name or ""], count, at, value) for value in graph.inputs}
            left -= max(1, count)


def _one(array: np.ndarray, count: int, at: int, value: ir.Value) -> np.ndarray:
    own = np.asarray(array[at] if count else array)
    if value.dtype == ir.DataType.STRING:
        return own.astype(object)
    wanted = own.dtype if value.dtype is None else np.dtype(value.dtype.numpy())
    return own if own.dtype == wanted else own.view(wanted)  # numpy stores bfloat16 without its name


def misfits(
    inputs: Sequence[ir.Value], given: Mapping[str, npz.ArrayHeader]
) -> tuple[list[tuple[str, str, str | None]], int]:
    """What of the arrays `given` does not fit `inputs`, each as (name, sentence, way out); and the calls they hold.

    0 calls: the arrays are those of one call. A dimension that has a name has one size in all arrays.
    """
    known = {value.name or "": value for value in inputs}
    wrong: list[tuple[str, str, str | None]] = []
    listed = f"the model's inputs: {', '.join(f'`{name}`' for name in known) or 'none'}"
    wrong += [(name, f"the model has no input `{name}`", None) for name in given if name not in known]
    wrong += [(name, f"it lacks the input `{name}`", listed) for name in known if name not in given]
    both = {name: value for name, value in known.items() if name in given}
    stacked = bool(both) and all(_rank(value) + 1 == len(given[name].shape) for name, value in both.items())
    counts = {name: given[name].shape[0] for name in both} if stacked else {}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} of `{name}`" for name, count in counts.items())
        wrong.append((next(iter(counts)), f"it holds {told}", "give as many rows of each input as there are calls"))
    sizes: dict[str, tuple[int, str]] = {}
    for name, value in both.items():
        shape = given[name].shape[1:] if stacked else given[name].shape
        if (reason := _dtype_problem(value, given[name].dtype)) is not None:
            wrong.append((name, *reason))
        if (told := _shape_problem(value, shape, sizes)) is not None:
            wrong.append((name, told, None))
    count = next(iter(counts.values()), 0)
    if stacked and not count:
        wrong.append((next(iter(both)), "it holds no call: the first axis is empty", None))
    return wrong, count


def _rank(value: ir.Value) -> int:
    """Axes of an input; one whose shape is not stated counts as having any."""
    return -2 if value.shape is None else len(value.shape)


def _dtype_problem(value: ir.Value, have: np.dtype) -> tuple[str, str | None] | None:
    if value.dtype is None:
        return None
    if value.dtype == ir.DataType.STRING:
        fits = have.kind in "US"
        return None if fits else (f"`{value.name}` is a {have.name}, the model reads texts", None)
    wanted = np.dtype(value.dtype.numpy())
    if (have == wanted and have.isnative) or (have.kind == wanted.kind == "V" and have.itemsize == wanted.itemsize):
        return None
    return f"`{value.name}` is a {have.name}, the model reads {wanted.name}", f'write `.astype("{wanted.name}")`'


def _shape_problem(value: ir.Value, have: tuple[int, ...], sizes: dict[str, tuple[int, str]]) -> str | None:
    if value.shape is None:
        return None
    dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    text = "x".join("?" if dim is None else str(dim) for dim in dims) or "(none)"
    told = f"`{value.name}` is {'x'.join(map(str, have)) or '(none)'}, the model reads {text}"
    if len(dims) != len(have) or any(isinstance(d, int) and d != h for d, h in zip(dims, have, strict=True)):
        return told
    for dim, size in zip(dims, have, strict=True):
        if isinstance(dim, str):
            known, where = sizes.setdefault(dim, (size, value.name or ""))
            if known != size:
                return f"{told}, and `{dim}` is {known} in `{where}`"
    return None
