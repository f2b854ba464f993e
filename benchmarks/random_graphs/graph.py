"""A graph that a recipe fills: inputs with the numbers to call it with, constants, nodes, outputs; all by one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, helper, numpy_helper

F, D, H = np.float32, np.float64, np.float16
I64, I32, I8, U8, B = np.int64, np.int32, np.int8, np.uint8, np.bool_


@dataclass
class Graph:
    """What a recipe draws from `r` and adds to; names are given in order."""

    r: np.random.Generator
    opset: int
    nodes: list[NodeProto] = field(default_factory=list)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    consts: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    n: int = 0

    def name(self, stem: str = "v") -> str:
        """A name that is not taken."""
        self.n += 1
        return f"{stem}{self.n}"

    def pick(self, *options: Any) -> Any:
        """One of these."""
        return options[self.r.integers(len(options))]

    def chance(self, p: float = 0.5) -> bool:
        """True as often as `p`."""
        return bool(self.r.random() < p)

    def int(self, a: int, b: int) -> int:
        """From a to b."""
        return int(self.r.integers(a, b + 1))

    def data(self, shape: Sequence[int], dtype: Any = F) -> np.ndarray:
        """Normal floats, integers below 100, choices."""
        dtype = np.dtype(dtype)
        if dtype == np.bool_:
            return self.r.random(shape) < 0.5
        if dtype.kind == "f":
            return np.asarray(self.r.normal(size=shape)).astype(dtype)
        low, high = (0, 100) if dtype.kind == "u" else (-50, 50)
        return np.asarray(self.r.integers(low, high, shape)).astype(dtype)

    def x(self, shape: Sequence[int] = (), dtype: Any = F, data: Any = None, stem: str = "x") -> str:
        """An input with these numbers, or random ones."""
        name = self.name(stem)
        self.inputs[name] = self.data(shape, dtype) if data is None else np.asarray(data)
        return name

    def c(self, value: Any, dtype: Any = None, stem: str = "c") -> str:
        """A constant: an initializer or a Constant node."""
        name = self.name(stem)
        array = np.asarray(value) if dtype is None else np.asarray(value, dtype)
        if self.chance(0.25):
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name)))
        else:
            self.consts[name] = array
        return name

    def maybe(self, shape: Sequence[int] = (), dtype: Any = F, data: Any = None) -> str:
        """An input or a constant."""
        if self.chance():
            return self.x(shape, dtype, data)
        return self.c(self.data(shape, dtype) if data is None else data)

    def op(self, kind: str, inputs: Sequence[str], outs: Any = 1, domain: str = "", **attributes: Any) -> Any:
        """A node, attributes that are None left out; the name of its result, or the list of them."""
        names = [self.name("t") for _ in range(outs)] if isinstance(outs, int) else outs
        stated = {key: value for key, value in attributes.items() if value is not None}
        called = self.pick("", f"{kind}_{self.n}")
        self.nodes.append(helper.make_node(kind, inputs, names, domain=domain, name=called, **stated))
        return names[0] if len(names) == 1 else names

    def out(self, *names: str) -> None:
        """Let these be outputs."""
        self.outputs += names
