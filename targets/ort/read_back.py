"""Read emitted files again: every big constant byte for byte, every quantised linear as integers and scales.

What is compared does not go through the code that wrote it: the integers of a MatMulNBits are unpacked from the file
and held against those the module's DequantizeLinear has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx_ir as ir

from ...compiler.diagnostics.diagnostic import EngineError, fail
from ...compiler.emit.target import EmitJob
from ...compiler.ir.linears import Linear, QuantizedWeight
from ...compiler.ir.module import constant
from ...compiler.ir.packing import unpack_rows
from ...compiler.ir.weights import Weight
from . import pack
from .lower import DOMAIN, OrtLowering

_INPUTS = {"MatMulNBits": (1, 2, 3), "GatherBlockQuantized": (0, 2, 3)}


def read_back(paths: Mapping[str, Path], written: Mapping[str, ir.Model], lowering: OrtLowering, job: EmitJob) -> None:
    """Fail if a file does not hold what the module says."""
    reader = _Reader(job)
    for key, path in paths.items():
        reader.graph(path, written[key], lowering)


class _Reader:
    def __init__(self, job: EmitJob) -> None:
        self._job = job
        self._seen: set[tuple[object, ...]] = set()

    def graph(self, path: Path, written: ir.Model, lowering: OrtLowering) -> None:
        model = ir.load(path)
        if [n.op_type for n in model.graph] != [n.op_type for n in written.graph]:
            self._wrong(path, "its ops are not those that were written")
        nodes = {node.name: node for node in model.graph}
        packed = set()
        for linear in lowering.lowered.values():
            node = nodes.get(linear.name)
            if node is not None and node.domain == DOMAIN and linear.quant is not None:
                self._linear(path, node, linear, linear.quant)
                values = map(behind_cast, node.inputs)
                packed.update(v.name for v in values if v is not None and v.const_value is not None)
        for name, value in written.graph.initializers.items():
            if name not in packed:
                self._tensor(path, name, model.graph.initializers.get(name), value)

    def _tensor(self, path: Path, name: str, found: ir.Value | None, expected: ir.Value) -> None:
        held, wanted = constant(found), constant(expected)
        if held is None or wanted is None or held.dims != wanted.dims or held.dtype != wanted.dtype:
            self._wrong(path, f"`{name}` is missing or of another type or shape")
        if self._again(found, wanted):
            return
        if not wanted.dims:
            same = np.array_equal(held.numpy(), wanted.numpy(), equal_nan=wanted.dtype.is_floating_point())
        else:
            same = all(_equal(held.rows(at, at + len(block)), block) for at, block in wanted.blocks())
        if not same:
            self._wrong(path, f"`{name}` holds other numbers than were written")

    def _again(self, found: ir.Value | None, wanted: Weight) -> bool:
        """Whether these bytes of the data file were compared already, with this very tensor."""
        tensor = found.const_value if found is not None else None
        if not isinstance(tensor, ir.ExternalTensor):
            return False
        place = (tensor.path, tensor.offset, tensor.length, id(wanted))
        known = place in self._seen
        self._seen.add(place)
        return known

    def _linear(self, path: Path, node: ir.Node, linear: Linear, quant: QuantizedWeight) -> None:
        indices = _INPUTS[node.op_type]
        held = [constant(behind_cast(node.inputs[i])) if i < len(node.inputs) else None for i in indices]
        stored, scale, zero = held
        if stored is None or scale is None:
            self._wrong(path, f"`{linear.name}` has no weight")
        if self._again(node.inputs[indices[0]], quant.q):
            return
        for at, q in quant.q.blocks(multiple=1):
            stop = at + len(q)
            why = _difference(
                quant,
                at,
                q.astype(np.int16),
                stored.rows(at, stop),
                scale.rows(at, stop),
                None if zero is None else zero.rows(at, stop),
            )
            if why is not None:
                self._wrong(path, f"{why} of `{linear.name}` differ from the module's, near row {at}")

    def _wrong(self, path: Path, what: str) -> NoReturn:
        fail(
            "E0801",
            f"`{path.name}`, read back: {what}",
            self._job.origin,
            kind=EngineError,
            help="the disk may be full or faulty; if it happens again it is a mistake of edgec",
        )


def behind_cast(value: ir.Value | None) -> ir.Value | None:
    """The initializer behind a Cast, as scales in float16 are read, or `value` itself."""
    producer = None if value is None else value.producer()
    return producer.inputs[0] if producer is not None and producer.op_type == "Cast" else value


def _difference(
    quant: QuantizedWeight, at: int, q: np.ndarray, stored: np.ndarray, scale: np.ndarray, zero: np.ndarray | None
) -> str | None:
    """Which of integers, scales, zero points do not agree; None if all do."""
    rows, k = q.shape
    bits = pack.stored_bits(quant)
    shift = 1 << (bits - 1)
    found = unpack_rows(stored.reshape(rows, -1), bits, k, "little").astype(np.int16)
    signed = quant.q.dtype.is_signed()
    if not np.array_equal(found - (shift if signed else 0), q):
        return "the integers"
    spread = scale.shape[1]
    wanted = quant.scale.rows(at, at + rows)
    wanted = np.broadcast_to(wanted.reshape(rows, -1), (rows, spread))
    if quant.minimum is not None:
        wanted = np.where(wanted == 0, scale, wanted)  # `pack.FLAT`
    if not np.array_equal(scale, wanted):
        return "the scales"
    if quant.minimum is not None:
        lowest = quant.minimum.rows(at, at + rows)
        same = zero is not None and np.allclose(-zero.astype(np.float64) * scale, lowest, rtol=1e-6, atol=0)
        return None if same else "the minimums"
    if quant.zero_point is None:
        return None if (zero is None) == signed else "the zero points"
    if zero is None:
        return "the zero points"
    made = unpack_rows(zero, bits, spread, "little").astype(np.int16) - (shift if signed else 0)
    given = quant.zero_point.rows(at, at + rows).astype(np.int16).reshape(rows, -1)
    return None if np.array_equal(made, np.broadcast_to(given, (rows, spread))) else "the zero points"


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()
