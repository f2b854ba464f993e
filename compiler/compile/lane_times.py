"""Whether the CPU's work beside an NPU hides behind it, from shapes and the device table.

    hides    cpu <= npu + call
    cpu      max(flop / rate, bytes / half the bandwidth)      rate: 16 flop a cycle on all cores but the slowest kind
    npu      max(bytes / bandwidth, operations / TOPS)         at least: the second where the table knows TOPS
    call     what each call of the NPU costs beside its work: 50 µs where it is quick, 220 µs where it is slow

220 µs from the app is a device team's public measurement on v81. A call of the NPU that takes longer hides more, and
costs more: each input with a shadow is one call more than the model without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ..ir.annotations import SHADOW
from ..ir.linears import Linear, as_linear
from ..partition.cut_by_placement import cut
from ..partition.parts import SUM
from ..pipeline.pass_interface import SUSTAINED, fast_cycles

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..ir.module import Module
    from ..plan.devices import Device

QUICK, SLOW = 50e-6, 220e-6  # seconds for a call of the NPU
_FLOP = 16  # a cycle: two 128-bit pipes that multiply and add float32
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Work:
    """What runs on one side in one call: float or integer operations, bytes of weights and results."""

    operations: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.bytes + other.bytes)


def product(tokens: int, inputs: int, outputs: int, bits: float = 32) -> Work:
    """x [tokens, inputs] times weights [outputs, inputs] of so many bits; float results where the weights are float."""
    results = tokens * outputs * _FLOAT if bits == 32 else 0.0
    return Work(2.0 * tokens * inputs * outputs, inputs * outputs * bits / 8 + results)


def cpu_seconds(work: Work, device: Device) -> float | None:
    """At the table's rates; None where it lacks one."""
    if not device.cores or device.bandwidth_gbs is None:
        return None
    rate = _FLOP * fast_cycles(device.cores)
    return max(work.operations / rate, work.bytes / (device.bandwidth_gbs * 1e9 * SUSTAINED))


def npu_seconds(work: Work, device: Device) -> float | None:
    """The least that it can take; None where the table has no bandwidth."""
    if device.bandwidth_gbs is None:
        return None
    counted = 0.0 if device.npu_int8_tops is None else work.operations / (device.npu_int8_tops * 1e12)
    return max(counted, work.bytes / (device.bandwidth_gbs * 1e9))


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
    found = []
    for key in module.graphs:
        for names, on_cpu, on_npu in _calls(module, key, deploy_device):
            cpu, npu = cpu_seconds(on_cpu, device), npu_seconds(on_npu, device)
            if cpu is not None and npu is not None:
                found.append(Beside(key, tuple(names), cpu, npu))
    return found


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
            work[home[node]] = None if own is None or before is None else before + own
    corrected: dict[int, list[ir.Node]] = {}
    for node in graph:
        if SHADOW.get(node) == "sum":
            corrected.setdefault(_part_of(node, home), []).append(node)
    for part, on_cpu in work.items():
        mains = [_main(one) for one in corrected.get(part, [])]
        linears = [one for one in mains if one is not None]
        on_npu = [_on_npu(one) for one in linears]
        if on_cpu is not None and linears and all(one is not None for one in on_npu):
            yield [one.name for one in linears], on_cpu, sum((one for one in on_npu if one), Work(0, 0))


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
