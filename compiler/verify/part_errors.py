"""How far each part of a bundle is from the float module, tensor by tensor.

max_error      = max |engine - float|                    over all outputs of the part, all its buckets
relative_error = max over outputs of ||engine - float|| / ||float||

Each bucket is called twice from an empty cache (the second call has a past), with what flows in the chain: a part's
error contains that of the parts before it. The float values are those of the semantic graph of the model's source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.manifest import Manifest
from ..bundle.schedule import Schedule
from ..ir import kv_names
from ..ir.module import MAIN, Module
from ..runtime.chain import ChainModel
from ..runtime.engines import open_graph, open_model
from ..runtime.kv_cache import canonical, numpy_dtype
from ..runtime.plain_graph import run_parts

if TYPE_CHECKING:
    import onnx_ir as ir
from ..ir.clone import clone_model

PROBE = 16  # tokens per call where a graph takes any number
FAR = 0.7  # a cosine below this is no rounding: the part computes something else


class Comparison:
    """The errors of one part as they come in."""

    def __init__(self) -> None:
        self.max_error: float | None = None
        self.relative_error: float | None = None
        self.worst = ""
        self.far: list[str] = []

    def add(self, tensor: str, bucket: str, engine: np.ndarray, reference: np.ndarray) -> None:
        """Take in one tensor: the engine's value, and the float module's in the same order of elements."""
        a, b = (array.astype(np.float64).ravel() for array in (engine, reference))
        if a.size != b.size:
            self.far.append(f"`{tensor}` of bucket `{bucket}` has {a.size} values, the float module {b.size}")
            return
        error = float(np.abs(a - b).max(initial=0.0))
        size = float(np.linalg.norm(b))
        relative = float(np.linalg.norm(a - b)) / size if size else error
        if self.max_error is None or error > self.max_error:
            self.max_error, self.worst = error, f"{tensor} of {bucket}"
        self.relative_error = max(relative, self.relative_error or 0.0)
        cosine = float(a @ b) / (size * float(np.linalg.norm(a)) or 1.0)
        if not cosine >= FAR and error > 1e-6:
            self.far.append(f"`{tensor}` of bucket `{bucket}` has a cosine of {cosine:.3f} with the float module's")

    def facts(self) -> dict[str, Any]:
        """The errors as `edgec verify` and the report show them; None where nothing was compared."""
        return {"max_error": self.max_error, "relative_error": self.relative_error, "worst": self.worst}


def compare(manifest: Manifest, name: str, module: Module, ids: Sequence[int]) -> dict[str, Comparison]:
    """The comparison of every part of model `name`; `ids`: a text for language models."""
    entry = manifest.model(name)
    found = {part: Comparison() for part in manifest.parts_of(name)}
    if entry["kind"] != "decoder":
        _compare_graph(manifest, name, module, found)
    elif entry["engine"] == "chain":
        _compare_chain(manifest, name, module, ids, found)
    else:
        _compare_engine(manifest, name, module, ids, next(iter(found.values())))
    return found


def _compare_chain(
    manifest: Manifest, name: str, module: Module, ids: Sequence[int], found: Mapping[str, Comparison]
) -> None:
    model = ChainModel(manifest, name, open_graph)
    values = _float_graph_values(module, manifest, name)
    longest = 2 * max(row["tokens"] or PROBE for row in model.buckets.entries.values())
    reference = _decoder_values(module, ids[:longest], values)
    try:
        for bucket, row in model.buckets.entries.items():
            tokens = row["tokens"] or PROBE
            model.reset()
            for start in (0, tokens):
                if start + tokens > min(len(ids), row["context"] or model.context):
                    break
                _tap(model, found, bucket, start, reference)
                model.call(ids[start : start + tokens], bucket)
    finally:
        model.close()


def _tap(
    model: ChainModel,
    found: Mapping[str, Comparison],
    bucket: str,
    start: int,
    reference: Mapping[str, np.ndarray],
) -> None:
    """Compare what the next call of `model` makes for the positions from `start` on."""

    def tap(part: str, made: Mapping[str, np.ndarray], count: int) -> None:
        for tensor, array in made.items():
            if tensor in reference:
                rows = _by_position(tensor, array, model, count)
                found[part].add(tensor, bucket, rows, reference[tensor][start : start + count])

    model.tap = tap


def _by_position(tensor: str, array: np.ndarray, model: ChainModel, count: int) -> np.ndarray:
    """[S, ...] of an output: K/V in its layout, everything else position by position."""
    axes = model.cache.axes.get(tensor.removesuffix("_out"))
    if axes is not None:
        return canonical(array, axes).swapaxes(0, 1)[:count]
    axis = next(i for i, size in enumerate(array.shape) if size != 1 or i == array.ndim - 2)
    return array.reshape(array.shape[axis], -1)[:count]


def _compare_engine(manifest: Manifest, name: str, module: Module, ids: Sequence[int], part: Comparison) -> None:
    probe = ids[: 2 * PROBE]
    values = {value.name or "": value for value in module.main.graph.outputs}
    reference = _decoder_values(module, probe, {"logits": values["logits"]})["logits"]
    engine = open_model(manifest, name)
    try:
        rows = [engine.forward(probe[start : start + PROBE]) for start in range(0, len(probe), PROBE)]
    finally:
        engine.close()
    part.add("logits", "whole", np.concatenate(rows), reference)


def _compare_graph(manifest: Manifest, name: str, module: Module, found: Mapping[str, Comparison]) -> None:
    values = _float_graph_values(module, manifest, name)
    buckets = manifest.buckets(name) or [{"name": MAIN, "parts": list(found)}]
    for row in buckets:
        arrays = {spec["name"]: _probe(spec) for spec in _fed(manifest, row)}
        dtypes = {value.name: value.dtype.numpy() for value in module.main.graph.inputs if value.dtype is not None}
        reference = _run_float(module, {key: arrays[key].astype(kind) for key, kind in dtypes.items() if key}, values)

        def tap(
            part: str, made: Mapping[str, np.ndarray], row: Mapping[str, Any] = row, reference: Mapping = reference
        ) -> None:
            for tensor, array in made.items():
                if tensor in reference:
                    found[part].add(tensor, row["name"], array, reference[tensor])

        run_parts(manifest, name, arrays, row["name"], tap)


def _fed(manifest: Manifest, bucket: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The inputs that the parts of a bucket read and none of them makes, each once."""
    graphs = [manifest.parts[part]["graphs"][bucket["name"]] for part in bucket["parts"]]
    made = {spec["name"] for graph in graphs for spec in graph["outputs"]}
    read = {spec["name"]: spec for graph in graphs for spec in graph["inputs"]}
    return [spec for name, spec in read.items() if name not in made]


def _probe(spec: Mapping[str, Any]) -> np.ndarray:
    """Deterministic values for an input: normal floats, zeros of everything else; 2 for a size that is open."""
    shape = [size if isinstance(size, int) else 2 for size in spec["shape"]]
    dtype = numpy_dtype(spec["dtype"])
    if dtype.kind != "f":
        return np.zeros(shape, dtype)
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def _float_graph_values(module: Module, manifest: Manifest, name: str) -> dict[str, ir.Value]:
    """Tensor of the bundle's graphs -> the value of the float graph it stands for: its outputs, and transfers by node.

    Left out are tensors of nodes that a pass has added, and where a pass has moved what tensors hold, all but keys and
    what the model puts out.
    """
    graph = module.main.graph
    outputs = {value.name or "": value for value in graph.outputs}
    if manifest.model(name).get("moved"):
        return {name: value for name, value in outputs.items() if not _is_cached_value(name)}
    nodes = {node.name: node for node in graph}
    transfers = {t.tensor: t for row in manifest.buckets(name) for t in Schedule.of_bucket(row).transfers}
    between = {
        tensor: nodes[transfer.node].outputs[transfer.output]
        for tensor, transfer in transfers.items()
        if transfer.node in nodes and transfer.output < len(nodes[transfer.node].outputs)
    }
    return between | outputs


def _is_cached_value(name: str) -> bool:
    read = kv_names.parse(name)
    return read is not None and read.kind == kv_names.VALUE


def _decoder_values(module: Module, ids: Sequence[int], values: Mapping[str, ir.Value]) -> dict[str, np.ndarray]:
    """Name -> [S, ...] of what `values` of the float decoder hold for one text."""
    from ..oracle.oracle import causal_mask

    if module.arch is None:
        raise ValueError(f"module `{module.name}` is no decoder")
    empty = np.zeros((1, module.arch.kv_heads, 0, module.arch.head_dim), np.float32)
    names = [value.name or "" for value in module.main.graph.inputs]
    feeds: dict[str, np.ndarray] = {name: empty for name in names if kv_names.is_cache(name)}
    feeds["input_ids"] = np.asarray([ids], np.int32)
    feeds["position_ids"] = np.arange(len(ids), dtype=np.int32)[None]
    feeds["attention_mask"] = causal_mask(len(ids), 0)
    made = {name: array[0] for name, array in _run_float(module, feeds, values).items()}
    return {name: array.swapaxes(0, 1) if kv_names.is_cache(name) else array for name, array in made.items()}


def _run_float(
    module: Module, feeds: Mapping[str, np.ndarray], values: Mapping[str, ir.Value]
) -> dict[str, np.ndarray]:
    """What `values` of the float graph hold for `feeds`, by the names they are given under."""
    from ..oracle.oracle import run

    model = clone_model(module.main)
    graph = model.graph
    known = {value.name: value for node in graph for value in node.outputs} | {v.name: v for v in graph.inputs}
    for value in values.values():
        if not (own := known[value.name]).is_graph_output():
            graph.outputs.append(own)
    made = run(model, feeds)
    return {name: made[value.name or ""] for name, value in values.items()}
