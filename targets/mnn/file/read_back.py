"""Read emitted MNN files back: what a `.mnn` holds, and whether each weight in it is the module's, bit for bit."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....compiler.diagnostics.diagnostic import Diagnostic, EngineError, PlanError, fail
from ....compiler.ir.linears import Linear, QuantizedWeight
from ....compiler.ir.packing import unpack_rows
from ....compiler.ir.weights import SourceFile, Weight
from . import weight_blobs as blobs
from .weight_blobs import Blob
from .writer import Json, dump

_MADE_AGAIN = 64  # rows at each end of a weight: whole blocks would be a quarter of a 4B model
_PIECE = 1 << 20  # bytes that are read at once to be checked: they stay in a core's cache


def weight_file(model: Path) -> Path:
    """The weight file that belongs to a `.mnn` file: the same name with `.weight` behind it."""
    return model.with_name(model.name + ".weight")


def blob_of(op: Json) -> Blob | None:
    """Where the weight of a Convolution op is stored, from the op's own fields."""
    main = op.get("main") or {}
    external = main.get("external")
    if op.get("type") not in ("Convolution", "ConvolutionDepthwise") or not external:
        return None
    common, quant = main["common"], main.get("quanParameter")
    rows = common["outputCount"]
    if quant is None:
        columns = external[1] // (4 * rows)
        return Blob(external[0], external[1], 0, external[2], rows, columns, 32, 0, True, False)
    offset, code_bytes, alpha_bytes, bias_bytes = external[:4]
    if quant.get("type") == 3:
        return Blob(offset, code_bytes, 0, bias_bytes, rows, code_bytes // (2 * rows), 16, 0, True, False)
    bits = quant["aMaxOrBits"]
    kernel = common.get("kernelX", 1) * common.get("kernelY", 1)
    columns = common["inputCount"] // common.get("group", 1) * kernel
    symmetric = not quant.get("readType")
    half = quant.get("scaleStorage") == "FP16"
    scales = alpha_bytes // ((2 if half else 4) * (1 if symmetric else 2))
    block, minimum = columns * rows // scales, quant.get("aMin", 0) < 0
    return Blob(offset, code_bytes, alpha_bytes, bias_bytes, rows, columns, bits, block, symmetric, half, minimum)


class WeightReader:
    """The weights of one `.weight` file."""

    def __init__(self, path: Path) -> None:
        self.source = SourceFile(path)

    def codes(self, blob: Blob, start: int, stop: int) -> np.ndarray:
        """Stored codes u of rows [start, stop), a multiple of eight rows (or up to the last)."""
        bits = start * blob.columns * blob.bits
        if bits % 8:
            raise ValueError(f"row {start} does not begin at a byte")
        count = (stop - start) * blob.columns
        raw = self.source.read(blob.offset + blob.header_bytes + bits // 8, (count * blob.bits + 7) // 8)
        return unpack_rows(np.frombuffer(raw, np.uint8)[None], blob.bits, count, "big").reshape(
            stop - start, blob.columns
        )

    def check(self, blob: Blob) -> int:
        """CRC-32 of the integers and alphas of a quantised weight, as they are stored."""
        check, end = 0, blob.offset + blob.code_bytes + blob.alpha_bytes
        for start in range(blob.offset + blob.header_bytes, end, _PIECE):
            check = zlib.crc32(self.source.read(start, min(_PIECE, end - start)), check)
        return check

    def header(self, blob: Blob) -> bytes:
        """The bytes before the integers of a quantised weight."""
        return bytes(self.source.read(blob.offset, blob.header_bytes))

    def floats(self, blob: Blob, start: int, stop: int) -> np.ndarray:
        """Rows of a float weight, as stored."""
        dtype = np.dtype(np.float16 if blob.bits == 16 else np.float32)
        width = blob.columns * dtype.itemsize
        raw = self.source.read(blob.offset + start * width, (stop - start) * width)
        return np.frombuffer(raw, dtype).reshape(stop - start, blob.columns)

    def alpha(self, blob: Blob, start: int, stop: int) -> np.ndarray:
        """Scales [rows, blocks], or (zero, scale) [rows, blocks, 2]; float32."""
        dtype = np.dtype(np.float16 if blob.half_alpha else np.float32)
        shape = (blob.columns // blob.block, *(() if blob.symmetric else (2,)))
        width = int(np.prod(shape)) * dtype.itemsize
        raw = self.source.read(blob.offset + blob.code_bytes + start * width, (stop - start) * width)
        return np.frombuffer(raw, dtype).astype(np.float32).reshape(stop - start, *shape)


def check_linears(
    model: Path, written: Mapping[str, Blob], linears: Mapping[str, Linear], graph: Json | None = None
) -> None:
    """Every op of `model` points at the blob written for it, and the blob holds the module's integers and scales.

    `graph`: what the file holds, where it was read before.

    The first and the last rows of a linear are made again and compared, number by number. Between them the file has to
    have the bytes that were written: making all of them again would read the whole source twice.
    """
    stored = {op["name"]: blob for op in (graph or dump(model))["oplists"] if (blob := blob_of(op)) is not None}
    reader = WeightReader(weight_file(model))
    for name, blob in written.items():
        held = stored.get(name, stored.get(f"{name}/packed", blob))  # a table that is looked up is no op of its own
        if held != blob:
            fail("E0706", f"`{name}` in `{model.name}` points elsewhere than its weight was written", kind=EngineError)
        linear = linears[name]
        same = (
            _same_floats(reader, blob, linear.weight())
            if linear.quant is None
            else _same_integers(reader, blob, linear.quant)
        )
        if not same:
            fail("E0706", f"the weight of `{name}` read back from `{model.name}` differs", kind=EngineError)


def _same_integers(reader: WeightReader, blob: Blob, quant: QuantizedWeight) -> bool:
    if reader.header(blob) != blobs.header(blob.rows, blob.columns, blob.bits):
        return False
    ranges: Iterable[tuple[int, int]] = blobs.row_ranges(quant)
    if blob.check is not None:
        if reader.check(blob) != blob.check:
            return False
        last = max(0, blob.rows - _MADE_AGAIN) // blobs.ROW_MULTIPLE * blobs.ROW_MULTIPLE
        ranges = {(0, min(_MADE_AGAIN, blob.rows)): None, (last, blob.rows): None}
    for start, stop in ranges:
        ours = blobs.codes(quant.q, start, stop, blob.bits).reshape(stop - start, -1)
        if not np.array_equal(ours, reader.codes(blob, start, stop)):
            return False
        alpha = reader.alpha(blob, start, stop)
        if not np.array_equal(blobs.alpha_rows(quant, start, stop, blob.bits, blob.minimum), alpha):
            return False
    return True


def _same_floats(reader: WeightReader, blob: Blob, weight: Weight) -> bool:
    dtype = np.float16 if blob.bits == 16 else np.float32
    return all(
        np.array_equal(
            block.reshape(len(block), -1).astype(np.float32).astype(dtype),
            reader.floats(blob, start, start + len(block)),
        )
        for start, block in weight.blocks()
    )


def inspect(path: Path) -> dict[str, Any] | None:
    """A `.mnn` file in words: ops by type, inputs, outputs, each weight's format and size. None: not one."""
    if path.suffix != ".mnn" or not path.is_file():
        return None
    try:
        graph = dump(path)
    except EngineError as error:
        message = f"`{path}` is no MNN model, or is damaged: MNN's own converter fails on it"
        raise PlanError(Diagnostic("E0954", message)) from error
    names, ops = graph.get("tensorName") or [], graph.get("oplists") or []
    inputs = [op for op in ops if op["type"] == "Input"]
    weights = [(op["name"], blob_of(op)) for op in ops]
    return {
        "kind": "mnn",
        "file": path.name,
        "inputs": [{"name": op["name"], "shape": (op.get("main") or {}).get("dims", [])} for op in inputs],
        "outputs": graph.get("outputName") or [],
        "tensors": len(names),
        "ops": dict(sorted(Counter(op["type"] for op in ops).items())),
        "weights": [
            {
                "name": name,
                "shape": [blob.rows, blob.columns],
                "format": blob.describe(),
                "bytes": blob.end - blob.offset,
            }
            for name, blob in weights
            if blob is not None
        ],
    }
