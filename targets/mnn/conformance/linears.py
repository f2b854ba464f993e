"""One linear per weight format, on MNN in both memory modes, beside its product in float64."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ....compiler.ir.annotations import FORMAT
from ....compiler.ir.linears import QuantizedWeight
from ....compiler.ir.weight_format import WeightFormat
from ....compiler.ir.weights import from_array
from ..file import op_parameters as tables
from ..file import weight_blobs as blobs
from ..file.read_back import weight_file
from ..file.writer import Net
from ..graph.emit_graph import relative_errors
from ..run.engine import MnnGraph

_SHAPES = ((96, 256), (33, 128), (130, 384))  # outputs not a multiple of the packing, and more than one tile
_TOKENS = (1, 2, 7, 64)


@dataclass(frozen=True)
class LinearFormat:
    """Bits, block (None: one scale per channel) and zero points of a weight; 16 and 32 bits are floats."""

    bits: int
    block: int | None
    symmetric: bool

    @property
    def name(self) -> str:
        """As blobs describe it: `int4 block 32 symmetric`."""
        if self.bits >= 16:
            return f"float{self.bits}"
        return WeightFormat(self.bits, self.block, self.symmetric).describe()

    @classmethod
    def parse(cls, name: str) -> LinearFormat | None:
        """The format of this name; None for one that has more words."""
        words = name.split()
        match words:
            case [bits, "block", block, grain] if block.isdecimal():
                found = cls(int(bits.removeprefix("int")), int(block), grain == "symmetric")
            case [bits, "per", "channel", grain]:
                found = cls(int(bits.removeprefix("int")), None, grain == "symmetric")
            case _:
                return None
        return found if found.name == name else None

    def shapes(self) -> list[tuple[int, int]]:
        """Outputs and inputs; inputs are whole blocks, at the last shape two or more."""
        block, last = self.block or 1, len(_SHAPES) - 1
        blocks = [max(-(-k // block), 2 if index == last else 1) for index, (_, k) in enumerate(_SHAPES)]
        return [(n, count * block) for (n, _), count in zip(_SHAPES, blocks, strict=True)]

    def errors(self, folder: Path) -> dict[str, float]:
        """The worst error over shapes and token counts by memory mode."""
        found = {}
        for memory in ("normal", "low"):
            runs = [run_linear(folder, self, *shape, memory) for shape in self.shapes()]
            found[memory] = max(error for error, _ in runs)
            if runs[-1][1] != self.name:  # the last has several blocks of each size
                raise ValueError(f"`{self.name}` was written as `{runs[-1][1]}`")
        return found


def formats() -> list[LinearFormat]:
    """Every weight format of the table."""
    found = [
        LinearFormat(bits, block, symmetric)
        for bits in (2, 3, 4, 8)
        for block in (16, 32, 64, 128, None)
        for symmetric in (True, False)
    ]
    return [*found, LinearFormat(16, None, True), LinearFormat(32, None, True)]


def run_linear(folder: Path, format: LinearFormat, rows: int, columns: int, memory: str) -> tuple[float, str]:
    """The worst error of one linear [rows, columns] over the token counts, and the format it was written in."""
    rng = np.random.default_rng(rows + columns)
    path, bias = folder / "linear.mnn", rng.normal(size=rows).astype(np.float32)
    with weight_file(path).open("wb") as file:
        if format.bits < 16:
            weight = random_weight(rng, format, rows, columns)
            blob, matrix = blobs.write_quantized(file, weight, bias), weight.rows(0, rows)
        else:
            big = 1.0 if format.bits == 16 else 1e5
            matrix = (rng.normal(size=(rows, columns)) * big).astype(np.float32 if format.bits == 32 else np.float16)
            matrix = matrix.astype(np.float32)
            blob = blobs.write_float(file, from_array("w", matrix), bias)
    _linear_net(blob).write(path, ["y"])
    session = MnnGraph(path, ["x"], ["y"], memory, 1, "MNN")
    worst = 0.0
    try:
        for tokens in _TOKENS:
            x = rng.normal(size=(tokens, columns)).astype(np.float32)
            expected = (x.astype(np.float64) @ matrix.T + bias).astype(np.float32)
            worst = max(worst, *relative_errors(session.run({"x": x}), {"y": expected}).values())
    finally:
        session.close()
    return worst, blob.describe()


def random_weight(rng: np.random.Generator, format: LinearFormat, rows: int, columns: int) -> QuantizedWeight:
    """Random integers over the whole range as `quantize` holds them, scales of both signs, random zero points."""
    bits, block, symmetric = format.bits, format.block, format.symmetric
    signed, unsigned = (np.int8, np.uint8) if bits == 8 else (ml_dtypes.int4, ml_dtypes.uint4)
    low = -(1 << (bits - 1)) if symmetric else 0
    dtype = np.dtype(signed if symmetric else unsigned)
    q = from_array("q", rng.integers(low, low + (1 << bits), (rows, columns)).astype(dtype))
    FORMAT.set(q, WeightFormat(bits, block, symmetric))
    grid = (rows,) if block is None else (rows, columns // block)
    steps = rng.uniform(0.005, 0.02, grid) * (rng.choice((-1, 1), grid) if symmetric and bits < 8 else 1)
    scale = from_array("scale", steps.astype(np.float16).astype(np.float32))
    zero = None if symmetric else from_array("zero", rng.integers(0, 1 << bits, grid).astype(dtype))
    node = ir.Node("", "DequantizeLinear", [])
    return QuantizedWeight(node, q, scale, zero, block, 1 if block else 0)


def _linear_net(blob: blobs.Blob) -> Net:
    net = Net()
    x = net.input("x", [-1, blob.columns], "DT_FLOAT")
    x = net.one("Reshape", [x], "rows", *tables.reshape([-1, blob.columns, 1, 1]))
    x = net.one("ConvertTensor", [x], "packed", *tables.layout("NCHW", "NC4HW4"))
    x = net.one("Convolution", [x], "linear", *tables.convolution(blob, blob.columns, blob.rows), layout="NHWC")
    x = net.one("ConvertTensor", [x], "plain", *tables.layout("NC4HW4", "NCHW"))
    net.one("Reshape", [x], "y", *tables.reshape([-1, blob.rows]))
    return net
