"""`as qnn { shard = auto | n }` and `{ container = … }`: which ops are in a binary of their own, and what cannot be.

A device loads contexts of up to 2 GB; the HTP compiler holds all weights of a context at once, more for each bucket.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...compiler.diagnostics.diagnostic import Diagnostic, Label
from ...compiler.emit.part import Part

if TYPE_CHECKING:
    from ...compiler.emit.target import CheckRequest
    from ...compiler.ir.module import Module

PER_CHIP, MULTI_SOC = "per_chip", "multi_soc"
_MOST_BYTES = 2_000_000_000  # of a context that a device loads
_TABLES = 0.9  # of it are left to the weights: the rest are graphs


def check_shards(request: CheckRequest, at: Label) -> Iterator[Diagnostic]:
    """What of the options a plan cannot have, whatever its graphs."""
    options, arch = request.deploy.options, request.arch
    shard, container = getattr(options, "shard", "auto"), getattr(options, "container", PER_CHIP)
    shards = shard if isinstance(shard, int) else 1
    if shards > 1 and arch is None:
        message = f"`{request.deploy.model}` is no language model: it has no layers to cut into {shard} shards"
        yield Diagnostic("E0645", message, at, help="leave `shard` out")
    elif arch is not None and shards > arch.layers:
        message = f"`shard = {shard}`, and `{request.deploy.model}` has {arch.layers} layers"
        yield Diagnostic("E0645", message, at, help=f"at most `shard = {arch.layers}`: a shard holds whole layers")
    elif shards > 1 and any(step.demands.npu is not None for step in request.steps):
        message = "`shard` beside shadows: these keep linears in parts of their own already"
        yield Diagnostic("E0645", message, at, help="leave one of them out")
    if container == MULTI_SOC and len(request.plan.devices) < 2:
        message = "`container = multi_soc` is a file for several chips, and the plan names one"
        yield Diagnostic("E0644", message, at, help="name several, e.g. `device [sm8550, sm8650]`, or leave it out")
    elif container == MULTI_SOC and getattr(options, "sparse_store", "auto") == "on":
        message = "QNN's container for several chips was never tried with the sparse store"
        yield Diagnostic("E0644", message, at, help="write `container = per_chip`, or leave `sparse_store` out")


def check_container(parts: Sequence[Part], options: Any) -> str | None:
    """Why QNN's container for several chips cannot hold these parts; None if it can, or is not asked for."""
    most = max((len(part.graphs) for part in parts), default=0)
    if getattr(options, "container", PER_CHIP) != MULTI_SOC or most < 2:
        return None
    return f"QNN's container for several chips holds one graph, and {{}} has {most} buckets"


def mark(module: Module, options: Any) -> list[str]:
    """Mark the layers of each shard of a module; what was chosen, in words."""
    asked = getattr(options, "shard", 1)
    if asked == 1 or module.arch is None or shadowed(module.graphs.values()):
        return []
    from ...compiler.partition.shards import boundaries, layer_weights, mark_shards

    stored, counts = layer_weights(module, "npu")
    if not stored:
        return []
    number = _fewest(stored, counts, len(module.graphs), options.memory) if asked == "auto" else int(asked)
    if number == 1:
        return []
    starts = boundaries(stored, min(number, len(stored)))
    mark_shards(module, "npu", starts)
    ends = [*starts[1:], len(stored)]
    said = ", ".join(
        f"{start}-{end - 1} ({sum(stored[start:end]) / 1e6:.0f} MB)" for start, end in zip(starts, ends, strict=True)
    )
    room = f", compiled in up to {options.memory / 1e9:g} GB each" if asked == "auto" else ""
    return [f"the layers of `{module.name}` are in {len(starts)} context binaries{room}: {said}"]


def _fewest(stored: Sequence[float], counts: Sequence[float], buckets: int, memory: float) -> int:
    """The fewest shards that a device loads and that compile within `memory`; one for each layer where none do."""
    from ...compiler.estimate.compile_cost import emit_cost
    from ...compiler.partition.shards import boundaries

    for number in range(1, len(stored)):
        starts = boundaries(stored, number)
        spans = list(zip(starts, [*starts[1:], len(stored)], strict=True))
        if max(sum(stored[a:b]) for a, b in spans) > _MOST_BYTES * _TABLES:
            continue
        if emit_cost("qnn", max(sum(counts[a:b]) for a, b in spans), buckets).memory <= memory:
            return number
    return len(stored)


def own_binaries(parts: Iterable[Part]) -> bool:
    """Whether the shards of these parts are binaries: with shadows they only keep ops apart."""
    return not shadowed(graph for part in parts for graph in part.graphs.values())


def shadowed(graphs: Iterable[Any]) -> bool:
    """Whether a graph has linears beside which a shadow runs."""
    from ...compiler.ir.annotations import SHADOW

    return any(SHADOW.get(node) is not None for model in graphs for node in model.graph)
