"""A kernel of the library called without ONNX Runtime, as `lookup.h` declares it."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from edgec.compiler.kernels.shapes import Shape

_PANEL = 64


class _Linear(ctypes.Structure):
    _fields_ = (
        ("planes", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("zero_point", ctypes.c_void_p),
        ("zero", ctypes.c_uint8),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("bits", ctypes.c_int),
        ("block", ctypes.c_int),
    )


class Product:
    """A linear of random weights and random inputs, with tables of int8; `y` [tokens, outputs] is what it makes."""

    def __init__(self, library: ctypes.CDLL, kernels: int, shape: Shape, outputs: int, tokens: int) -> None:
        rng = np.random.default_rng(3)
        self._library, self._tokens, self._panels = library, tokens, -(-outputs // _PANEL)
        k, blocks = shape.inputs, shape.inputs // shape.block
        self._planes = rng.integers(0, 256, self._panels * 8 * k * shape.bits).astype(np.uint8)
        self._scale = rng.uniform(0.001, 0.02, self._panels * _PANEL * blocks).astype(np.float16)
        self._x = rng.standard_normal((tokens, k)).astype(np.float32)
        self._sums, self.y = np.zeros(tokens * k * 4, np.int8), np.zeros((tokens, outputs), np.float32)
        self._parts = np.zeros((2, tokens * blocks), np.float32)  # steps and totals
        weights = (self._planes.ctypes.data, self._scale.ctypes.data, None, 1 << shape.bits)
        self._linear = _Linear(*weights, outputs, k, shape.bits, shape.block)
        steps, totals = (part.ctypes.data for part in self._parts)
        self._tables = (ctypes.c_void_p * 4)(self._sums.ctypes.data, None, steps, totals)
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        row = ctypes.cast(kernels, ctypes.POINTER(pointer))  # name, makers of three kinds of tables, products
        self._make = ctypes.CFUNCTYPE(None, pointer, pointer, number, pointer)(row[1] or 0)
        self._multiply = ctypes.CFUNCTYPE(None, pointer, pointer, number, number, number, pointer)(row[4] or 0)

    @classmethod
    def of(cls, path: Path | None, name: str, shape: Shape, outputs: int, tokens: int) -> Product | None:
        """By the kernel `name` of the library at `path`; None where this processor lacks it."""
        library = ctypes.CDLL(str(path))
        library.lookup_named.restype = ctypes.c_void_p
        kernels = library.lookup_named(name.encode())
        return None if kernels is None else cls(library, kernels, shape, outputs, tokens)

    def make_tables(self) -> None:
        """Make the tables of all tokens."""
        self._make(ctypes.addressof(self._linear), self._x.ctypes.data, self._tokens, ctypes.addressof(self._tables))

    def multiply(self) -> None:
        """Look up; `y` is what comes out."""
        held = ctypes.addressof(self._linear), ctypes.addressof(self._tables)
        self._multiply(*held, self._tokens, 0, self._panels, self.y.ctypes.data)
