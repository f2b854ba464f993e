"""The work of a decoder from its shapes and the lines of its pipeline, before any graph is made.

For what has to be decided at check: which buckets, how many drafted tokens. The estimate itself looks at the graphs
(`model_work`), where it knows what passes have really made.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..estimate.work import CACHE_BYTES, ModelWork, PartWork
from ..ir.decoder_arch import DecoderArch
from ..ir.weight_format import WeightFormat
from ..pipeline.pass_interface import Scope
from ..pipeline.step import Step
from ..plan.plan import Deploy
from ..registry import find_target


def planned_work(name: str, arch: DecoderArch, deploy: Deploy, steps: Sequence[Step], context: int) -> ModelWork:
    """Linears in the formats that the last line about each gives it, on the device that the last one places it on."""
    floats = find_target(deploy.target).float_bytes
    places: dict[str, list[float]] = {}
    for linear, (outputs, inputs) in arch.linears().items():
        found = places.setdefault(_place(linear, steps, deploy.device), [0.0, 0.0])
        found[0] += _bytes(_formats(linear, steps), outputs, inputs, floats)
        found[1] += outputs * inputs
    parts = [
        PartWork(
            f"{name}.{device}",
            device,
            weights=stored,
            macs=macs,
            layers=arch.layers if device == deploy.device else 0,
            kv_width=arch.kv_heads * arch.head_dim,
            heads_width=arch.heads * arch.head_dim,
            cache_bytes=CACHE_BYTES.get(deploy.kv, floats),
        )
        for device, (stored, macs) in places.items()
    ]
    return ModelWork(name, tuple(parts), context)


def _place(linear: str, steps: Sequence[Step], device: str) -> str:
    for step in reversed(steps):
        if step.demands.places and Scope(step.on, step.except_).selects(linear):
            return min(step.demands.places)
    return device


def _formats(linear: str, steps: Sequence[Step]) -> tuple[WeightFormat, ...]:
    """Those it may get by the last line that gives it one; none: it stays a float."""
    for step in reversed(steps):
        if step.demands.weights and Scope(step.on, step.except_).selects(linear):
            return step.demands.weights
    return ()


def _bytes(formats: Sequence[WeightFormat], outputs: int, inputs: int, floats: float) -> float:
    """Of one weight; where a line chooses among formats, their mean."""
    sizes = [one.size(outputs, inputs) / 8 for one in formats]
    return sum(sizes) / len(sizes) if sizes else outputs * inputs * floats
