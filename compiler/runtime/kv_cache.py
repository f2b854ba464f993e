"""The K/V cache of a chain of graphs, kept on the host.

    master   per layer and kind  [G, context, D]            every position once, G K/V heads of width D
    active   per layer and kind  the graph's own layout     what a bucket reads: its first P = C - T positions

Positions from `length` on hold old values; the attention mask keeps them out, so a rollback is a change of `length`.
Steps in one bucket write their new positions into both; moving to a bucket of another P fills `active` anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..ir import kv_names

_CANONICAL = ("kv_heads", "position", "head_dim")
_STEP = 32  # positions


class KvCache:
    """`arch` and `kv` are the manifest's entries of the model; `context`: positions it can hold.

    `own`: tensor name (without `_in`) -> the kv entry of the part that reads it, where that is not the model's.
    """

    def __init__(
        self,
        arch: Mapping[str, Any],
        kv: Mapping[str, Any],
        context: int,
        own: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.length = 0
        self.context = context
        self._heads = arch["kv_heads"]
        self._width = kv.get("row_bytes") or arch["head_dim"]  # of elements that are stored
        self.axes: dict[str, tuple[str, ...]] = {}  # tensor name without `_in`, `_out` -> its layout
        self._master: dict[str, np.ndarray] = {}
        names = kv.get("names", kv_names.STEMS)
        for layer in range(arch["layers"]):
            for kind in kv_names.KINDS:
                name = names[kind].format(layer=layer)
                entry = (own or {}).get(name, kv)
                self.axes[name] = tuple(entry["layout"][kind])
                self._master[name] = np.zeros((self._heads, context, self._width), numpy_dtype(entry["dtype"]))
        self._active: dict[str, np.ndarray] = {}
        self._capacity = -1

    @property
    def inputs(self) -> set[str]:
        """Names of the graph inputs that carry past positions."""
        return {f"{name}_in" for name in self.axes}

    @property
    def outputs(self) -> set[str]:
        """Names of the graph outputs that carry new positions."""
        return {f"{name}_out" for name in self.axes}

    def stepped(self) -> int:
        """A capacity for a graph that takes any: the same for some steps, so `active` is not filled anew in each."""
        return min(self.context, -(-self.length // _STEP) * _STEP)

    def feeds(self, capacity: int) -> dict[str, np.ndarray]:
        """Each `<name>_in` with `capacity` past positions in the layout of the graphs."""
        if capacity != self._capacity:
            self._active = {name: self._filled(name, capacity) for name in self.axes}
            self._capacity = capacity
        return {f"{name}_in": array for name, array in self._active.items()}

    def append(self, outputs: Mapping[str, np.ndarray], count: int) -> None:
        """Take the first `count` new positions of each `<name>_out` into the cache."""
        end = self.length + count
        for name, axes in self.axes.items():
            new = canonical(outputs[f"{name}_out"], axes)[:, :count]
            self._master[name][:, self.length : end] = new
            if name in self._active:
                room = max(0, min(end, self._capacity) - self.length)
                canonical(self._active[name], axes)[:, self.length : self.length + room] = new[:, :room]
        self.length = end

    def rollback(self, length: int) -> None:
        """Forget all positions from `length` on; ValueError if there are fewer."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot roll back from {self.length} positions to {length}")
        self.length = length

    def compact(self, base: int, slots: Sequence[int]) -> None:
        """Of what lies behind the first `base` positions keep `base + slot` for each of `slots`, moved together."""
        rows = [base + slot for slot in slots]
        if not 0 <= base <= self.length or any(not base <= row < self.length for row in rows):
            raise ValueError(f"positions {rows} of a tree are not behind {base} of {self.length}")
        end = base + len(rows)
        for name, axes in self.axes.items():
            moved = self._master[name][:, rows]
            self._master[name][:, base:end] = moved
            if name in self._active:
                room = max(0, min(end, self._capacity) - base)
                canonical(self._active[name], axes)[:, base : base + room] = moved[:, :room]
        self.length = end

    @property
    def nbytes(self) -> int:
        """Bytes held: every position once, and what the bucket in use reads."""
        return sum(array.nbytes for held in (self._master, self._active) for array in held.values())

    def forms(self) -> dict[str, tuple[tuple[int, int], np.dtype]]:
        """Tensor -> ([K/V heads, width], type)."""
        return {name: ((self._heads, self._width), array.dtype) for name, array in self._master.items()}

    def saved(self, count: int) -> dict[str, np.ndarray]:
        """Views of the first `count` positions of every tensor, [kv_heads, count, head_dim]."""
        if not 0 <= count <= self.length:
            raise ValueError(f"{self.length} positions are held, not {count}")
        return {name: array[:, :count] for name, array in self._master.items()}

    def restore(self, arrays: Mapping[str, np.ndarray], count: int) -> None:
        """Hold the first `count` positions of `arrays`, as `saved` gave them, and nothing else."""
        if count > self.context:
            raise ValueError(f"{count} positions exceed the context of {self.context}")
        for name, array in self._master.items():
            array[:, :count] = arrays[name][:, :count]
        self._active, self._capacity, self.length = {}, -1, count

    def release(self) -> None:
        """Give the memory back."""
        self._master, self._active, self._capacity = {}, {}, -1

    def _filled(self, name: str, capacity: int) -> np.ndarray:
        axes = self.axes[name]
        sizes = {"batch": 1, "kv_heads": self._heads, "position": capacity, "head_dim": self._width}
        array = np.empty([sizes[axis] for axis in axes], self._master[name].dtype)
        count, view = min(self.length, capacity), canonical(array, axes)
        view[:, :count] = self._master[name][:, :count]
        view[:, count:] = np.zeros((), array.dtype)
        return array


def canonical(array: np.ndarray, axes: Sequence[str]) -> np.ndarray:
    """A view of `array` as [kv_heads, position, head_dim]."""
    first: list[Any] = [0 if axis == "batch" else slice(None) for axis in axes]
    kept = [axis for axis in axes if axis != "batch"]
    return array[tuple(first)].transpose([kept.index(axis) for axis in _CANONICAL])


def numpy_dtype(name: str) -> np.dtype:
    """The array type of a manifest's dtype; the ones numpy lacks come from ml_dtypes."""
    import ml_dtypes

    if name == "string":
        return np.dtype(object)
    name = name.replace("float8e", "float8_e")
    return np.dtype(getattr(ml_dtypes, name, name))
