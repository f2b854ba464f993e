"""How fast the NPU and the CPU of a chip read and compute, and what that makes of a call.

    seconds = max(weights / weights_rate + cache / cache_rate, flops / flops_rate)      of a part: the roofline
    least   = max(bytes / peak of the memory, operations / TOPS)                        what no engine can go below
    call    = sum over its parts, each with the residual of the model's shape, + what an app waits for a call to the NPU

Everything that a compile says of time on a device is from here; whether the CPU's work hides behind the NPU
(`compile/lane_times.py`) asks for the least that the NPU takes, so that what is unknown of it makes nobody wait.

A chip in the published table has its own figures. Another one's NPU is taken to use the share of its memory interface
that the first chip of the table uses; CPUs likewise, and arithmetic with the clock of the cores. A chip without a
published bandwidth, `host` among them, has no speed.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan.devices import Device, devices
from .fit import npu_fit
from .published import published, shape_of
from .work import ModelWork, PartWork, decoder_work


@dataclass(frozen=True)
class LaneSpeed:
    """Bytes of weights and of K/V a second, operations a second; `basis`: where that is from, for people.

    `peak_bytes`, `peak_flops`: of the hardware, None where the maker publishes no TOPS.
    """

    weights: float
    cache: float
    flops: float
    basis: str
    peak_bytes: float
    peak_flops: float | None = None

    def of(self, operations: float, bytes: float) -> float:
        """Seconds of work that reads and writes so many bytes, none of them a cache's."""
        return max(operations / self.flops, bytes / self.weights)

    def least(self, operations: float, bytes: float) -> float:
        """The least that the hardware can take for it."""
        counted = 0.0 if self.peak_flops is None else operations / self.peak_flops
        return max(counted, bytes / self.peak_bytes)

    def seconds(self, part: PartWork, tokens: int, context: int) -> float:
        """What a part takes in a call of `tokens` new positions within `context`, without the wait for the call."""
        cache = part.cache(context)
        reading = (part.bytes_read(tokens, context) - cache) / self.weights + cache / self.cache
        return max(reading, part.flops(tokens, context) / self.flops)

    def bound(self, part: PartWork, tokens: int, context: int) -> str:
        """What it waits for: `memory` or `arithmetic`."""
        whole = self.seconds(part, tokens, context)
        return "arithmetic" if whole <= part.flops(tokens, context) / self.flops else "memory"


@dataclass(frozen=True)
class ChipSpeed:
    """The lanes of a chip, by device word; and the seconds an app waits for a call to the NPU beside the work in it."""

    lanes: dict[str, LaneSpeed]
    wait: float

    def serves(self, model: ModelWork) -> bool:
        """Whether every part of the model runs on a lane with a speed."""
        return all(part.device in self.lanes for part in model.parts)

    def call_seconds(self, model: ModelWork, tokens: int, context: int, residual: float = 1.0) -> float:
        """Seconds of a call; lanes do not overlap. `residual`: of the model's shape, on the NPU."""
        total = self.wait if any(part.device == "npu" for part in model.parts) else 0.0
        for part in model.parts:
            factor = residual if part.device == "npu" else 1.0
            total += factor * self.lanes[part.device].seconds(part, tokens, context)
        return total


def chip_speed(device: Device) -> ChipSpeed:
    """What is known of a chip."""
    lanes = {}
    if device.has_npu and (npu := _npu(device)) is not None:
        lanes["npu"] = npu
    if (cpu := _cpu(device)) is not None:
        lanes["cpu"] = cpu
    return ChipSpeed(lanes, call_seconds())


def call_seconds(which: str = "seconds") -> float:
    """What an app waits for a call to an NPU beside the work in it; `quick`: at best."""
    return published()["call"][which]


def _npu(device: Device) -> LaneSpeed | None:
    known = npu_fit()
    first = known.rates[0].chip
    slowness = known.slowness.get(device.name)
    basis = "published decode rates of this chip"
    if slowness is None:
        if device.bandwidth_gbs is None:
            return None
        share = _peak(first) / device.bandwidth_gbs
        slowness = known.slowness[first] * share
        basis = f"the share of its {device.bandwidth_gbs:g} GB/s that {first} uses"
    engines = published()["engines"]
    flops = _prompt_flops(engines["npu_prompt"]) * known.slowness[engines["chip"]] / slowness
    rates = 1 / known.weights / slowness, 1 / known.cache / slowness, flops
    tops = None if device.npu_int8_tops is None else device.npu_int8_tops * 1e12
    peak = rates[0] if device.bandwidth_gbs is None else device.bandwidth_gbs * 1e9
    return LaneSpeed(*rates, basis, peak, tops)


def _cpu(device: Device) -> LaneSpeed | None:
    if device.bandwidth_gbs is None or not device.cores:
        return None
    engines = published()["engines"]
    work = _measured_model().parts[0]
    rate = work.weights * engines["cpu_decode"] * device.bandwidth_gbs / _peak(engines["chip"])
    clocks = _clocks(device) / _clocks(devices()[engines["chip"]])
    basis = f"the share of its {device.bandwidth_gbs:g} GB/s, and the clocks, that MNN uses on {engines['chip']}"
    flops = _prompt_flops(engines["cpu_prompt"]) * clocks
    return LaneSpeed(rate, rate, flops, basis, device.bandwidth_gbs * 1e9)


def _measured_model() -> ModelWork:
    engines = published()["engines"]
    width = engines["weight_bytes"]
    return decoder_work(engines["model"], shape_of(engines["model"]), 0, width, width, 2.0)


def _prompt_flops(rate: float) -> float:
    """Operations a second behind a rate of prompt tokens, whose head is computed for the last one only."""
    _, hidden, *_, vocabulary = shape_of(published()["engines"]["model"])
    return 2.0 * (_measured_model().parts[0].macs - hidden * vocabulary) * rate


def _peak(chip: str) -> float:
    found = devices()[chip].bandwidth_gbs
    assert found is not None, chip  # every chip that the tables refer to has one
    return found


def _clocks(device: Device) -> float:
    return sum(group.count * group.ghz for group in device.cores)
