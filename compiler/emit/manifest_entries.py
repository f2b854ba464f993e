"""Entries of the manifest that targets share: a graph's tensors with where each comes from, and a plain K/V cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from ..ir import kv_names

if TYPE_CHECKING:
    from .part import Part
    from .target import EmitJob

_AXES = ["batch", "kv_heads", "position", "head_dim"]


def graph_entry(job: EmitJob, part: Part, bucket: str, file: str) -> dict[str, Any]:
    """The entry of the graph that `part` has for `bucket`, stored in `file` (relative to the bundle)."""
    graph = part.graphs[bucket].graph
    return {
        "graph": graph.name or bucket,
        "file": file,
        "inputs": [{**tensor_entry(value), "source": _source(job, part, bucket, value)} for value in graph.inputs],
        "outputs": [tensor_entry(value) for value in graph.outputs],
    }


def tensor_entry(value: ir.Value) -> dict[str, Any]:
    """Name, dtype and shape of a graph input or output; a dynamic dimension is its name."""
    dtype = value.dtype or ir.DataType.FLOAT
    shape = [] if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape]
    names = {ir.DataType.FLOAT: "float32", ir.DataType.DOUBLE: "float64"}
    entry = {"name": value.name, "dtype": names.get(dtype, dtype.name.lower()), "shape": shape}
    return entry | ({"sequence": True} if isinstance(value.type, ir.SequenceType) else {})


def cache_entry(job: EmitJob) -> dict[str, Any]:
    """The layout of a K/V cache as the module has it: float32, positions in axis 2; empty without attention."""
    inputs = (value for part in job.parts for model in part.graphs.values() for value in model.graph.inputs)
    if job.module.arch is None or not any(kv_names.is_cache(value.name) for value in inputs):
        return {}
    return {
        "dtype": "float32",
        "layout": {"key": _AXES, "value": _AXES},
        "capacity": "context - tokens",
        "rollback": "drop the positions from the accepted length on",
        "between_buckets": "copy",
        "unused": "any finite number; the additive mask keeps them out",
    }


def _source(job: EmitJob, part: Part, bucket: str, value: ir.Value) -> str | None:
    """`kv`, `feed`, or the part of this emission that computes it; None: a part of another target."""
    name = value.name or ""
    whole = job.module.graphs[bucket].graph.inputs
    if any(given.name == name for given in whole):
        return "kv" if job.module.arch is not None and kv_names.is_cache(name) else "feed"
    makers = (
        p.name
        for p in job.parts
        if p is not part and bucket in p.graphs
        for output in p.graphs[bucket].graph.outputs
        if output.name == name
    )
    return next(makers, None)
