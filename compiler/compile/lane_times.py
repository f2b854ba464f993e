"""Whether the CPU's work beside an NPU hides behind it, from shapes and the speeds of the chip's lanes.

    hides    cpu <= npu + call
    cpu      its roofline (`estimate/lane_speed.py`): operations and bytes at the rates of the chip's CPU
    npu      the least that it can take: bytes at the peak of the memory, operations at its TOPS where the maker tells
    call     what each call of the NPU costs beside its work: 50 µs where it is quick, 220 µs where it is slow

220 µs from the app is a device team's public measurement on v81. A call of the NPU that takes longer hides more, and
costs more: each input with a shadow is one call more than the model without it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ..estimate.lane_speed import call_seconds, chip_speed
from ..ir.annotations import SHADOW
from ..ir.linears import Linear, as_linear
from ..partition.cut_by_placement import cut
from ..partition.parts import SUM

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..ir.module import Module
    from ..plan.devices import Device

QUICK, SLOW = call_seconds("quick"), call_seconds()  # for a call of the NPU
_FLOAT = 4  # bytes


class Work(NamedTuple):
    """What runs on one side in one call: float or integer operations, bytes of weights and results."""

    operations: float
    bytes: float

    def joined(self, other: Work) -> Work:
        """The work of both."""
        return Work(self.operations + other.operations, self.bytes + other.bytes)


def product(tokens: int, inputs: int, outputs: int, bits: float = 32) -> Work:
    """x [tokens, inputs] times weights [outputs, inputs] of so many bits; float results where the weights are float."""
    results = tokens * outputs * _FLOAT if bits == 32 else 0.0
    return Work(2.0 * tokens * inputs * outputs, inputs * outputs * bits / 8 + results)


@dataclass(frozen=True)
class Beside:
    """One call of the CPU and the linears it runs beside; seconds of both."""

    bucket: str
    linears: tuple[str, ...]
    cpu: float
    npu: float

    def hides(self, call: float) -> bool:
        """Whether the NPU takes as long, with `call` seconds for the call."""
        return self.cpu <= self.npu + call

    @property
    def verdict(self) -> str:
        """In words, for the report."""
        return "yes" if self.hides(QUICK) else "behind slow calls only" if self.hides(SLOW) else "no"


def beside(module: Module, deploy_device: str, device: Device) -> list[Beside]:
    """Every call of the CPU that runs beside linears, in each bucket; empty where shapes or figures are not known."""
    lanes = chip_speed(device).lanes
    if not {"cpu", "npu"} <= lanes.keys():
        return []
    cpu, npu = lanes["cpu"], lanes["npu"]
    return [
        Beside(key, tuple(names), cpu.of(*on_cpu), npu.least(*on_npu))
        for key in module.graphs
        for names, on_cpu, on_npu in _calls(module, key, deploy_device)
    ]


def _calls(module: Module, key: str, deploy_device: str) -> Iterator[tuple[list[str], Work, Work]]:
    """The linears of each call, the CPU's work and theirs; calls whose shapes are open are left out."""
    graph = module.graphs[key].graph
    aside = [node for node in graph if SHADOW.get(node) == "cpu"]
    if not aside:
        return
    home = cut(module, key, deploy_device).home
    work: dict[int, Work | None] = {}
    for node in aside:
        if node in home:
            own, before = _on_cpu(node), work.get(home[node], Work(0, 0))
            work[home[node]] = None if own is None or before is None else before.joined(own)
    corrected: dict[int, list[ir.Node]] = {}
    for node in graph:
        if SHADOW.get(node) == "sum":
            corrected.setdefault(_part_of(node, home), []).append(node)
    for part, on_cpu in work.items():
        mains = [_main(one) for one in corrected.get(part, [])]
        linears = [one for one in mains if one is not None]
        on_npu = [_on_npu(one) for one in linears]
        if on_cpu is not None and linears and all(one is not None for one in on_npu):
            yield [one.name for one in linears], on_cpu, functools.reduce(Work.joined, filter(None, on_npu))


def _part_of(add: ir.Node, home: dict[ir.Node, int]) -> int:
    """The part that computes what `add` adds to a linear; -1 where it is none of the CPU's."""
    for value in add.inputs:
        node = _maker(value)
        if node is not None and SHADOW.get(node) == "cpu" and node in home:
            return home[node]
    return -1


def _main(add: ir.Node) -> Linear | None:
    found = (_maker(value) for value in add.inputs)
    name = (add.name or "").removesuffix(SUM)
    return next((as_linear(node) for node in found if node is not None and node.name == name), None)


def _maker(value: ir.Value | None) -> ir.Node | None:
    """The op that computes `value`, behind what rounds or clips it."""
    node = None if value is None else value.producer()
    while node is not None and (node.op_type in ("QuantizeLinear", "DequantizeLinear") or SHADOW.get(node) == "clip"):
        before = node.inputs[0]
        node = None if before is None else before.producer()
    return node


def _tokens(value: ir.Value) -> int | None:
    dims = None if value.shape is None else list(value.shape)[:-1]
    known = [dim for dim in dims or () if isinstance(dim, int)]
    return prod(known) if dims is not None and len(known) == len(dims) else None


def _on_npu(linear: Linear) -> Work | None:
    tokens, (n, k) = _tokens(linear.node.outputs[0]), linear.shape[:2]
    bits = 32 if linear.quant is None else linear.quant.format.bits
    return None if tokens is None else product(tokens, k, n, bits)


def _on_cpu(node: ir.Node) -> Work | None:
    """A product counts its float rows, everything else what it writes."""
    made = node.outputs[0]
    tokens, width = _tokens(made), None if made.shape is None else made.shape[-1]
    if node.op_type == "Transpose":  # of a weight, which is stored as it is multiplied
        return Work(0, 0)
    if tokens is None or not isinstance(width, int):
        return None
    linear = as_linear(node)
    if linear is not None and linear.kind == "matmul":
        return product(tokens, linear.shape[1], linear.shape[0])
    return Work(0, tokens * width * _FLOAT)
