"""Write the parts as ONNX files, read them back, and hold their numbers against the oracle.

<folder>/<part>.onnx                one graph without buckets
<folder>/<part>_<bucket>.onnx       or one per bucket; all weights of all of them, once, in <folder>/ort.data
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import onnx_ir as ir

from ...compiler.emit.manifest_entries import cache_entry, graph_entry
from ...compiler.emit.part import Part
from ...compiler.emit.stored_weight import StoredWeight, as_in_module, floats
from ...compiler.emit.target import Emission, EmitJob
from ...compiler.ir import kv_names
from ...compiler.ir.annotations import KV_TYPE, ORDER
from ...compiler.ir.clone import clone_model
from ...compiler.ir.linears import linears
from ...compiler.ir.module import MAIN
from ...compiler.ir.ordered_data import PAGE, index_of
from ...compiler.ir.packed_cache import groups_of, pack_cache, row_bytes
from ...compiler.ir.save import save_graphs
from ...compiler.kernels.build import LIBRARY, SCRIPT, build_into
from ...compiler.kernels.shapes import Shape
from .attention import join_past
from .compare import compare
from .half_floats import HalfFloats
from .lookup import is_lookup, lookup_bytes, shapes_of, table_kind
from .lower import OrtLowering
from .pack import stored_bits
from .read_back import read_back
from .session import EXACT, FAST
from .sparse import sparse_in_files

DATA = "ort.data"
KERNELS = "kernels"  # folder of the library of custom ops, in source and built for this machine


def emit(job: EmitJob) -> Emission:
    """Write the job's parts; the manifest's entries."""
    four_bits = _packed_caches(job)
    packs = job.options.format == "matmulnbits"
    lowering = OrtLowering(job.module, int8=job.options.compute == "int8")
    before = {_file(part, bucket): model for part in job.parts for bucket, model in part.graphs.items()}
    after = {file: lowering.run(model) if packs else clone_model(model) for file, model in before.items()}
    for model in after.values():
        join_past(model.graph)
    halves = HalfFloats(job.module)
    halved = job.beside and job.module.arch is not None  # beside a general graph what was moved here has to be exact
    if job.options.floats == "float16" or (job.options.floats == "auto" and halved):
        for model in after.values():
            halves.run(model.graph)
    folder = job.directory / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    job.progress(f"{job.module.name}: writing {len(after)} graphs for ONNX Runtime")
    order = next(filter(None, map(ORDER.get, job.module.graphs.values())), None)
    paths = save_graphs(after, folder, DATA, by_kind=order is not None)
    read_back(paths, after, lowering, job)
    level = FAST if packs and not _dequantises(after) else EXACT
    lookup = table_kind(before.values())
    shapes = shapes_of(before.values())
    untried = compare(before, paths, level, job, bool(halves.stored), lookup, shapes)
    if lookup:
        build_into(folder / KERNELS, binary=job.device.is_host, shapes=shapes)
    parts = {part.name: _entry(job, part, level, lookup, shapes) for part in job.parts}
    notes = [*untried, *(f"`{name}` keeps DequantizeLinear: {why}" for name, why in lowering.left.items())]
    notes += [f"`{name}` is stored as float32: float16 would overflow" for name in halves.wide]
    stored = _stored(before, lowering, halves)
    layout = {}
    if order is not None:
        file = f"{job.folder}/{DATA}"
        layout = {"order": order, "file": file, "page": PAGE, "kinds": index_of(list(paths.values()))}
    sparse = sparse_in_files(before, paths, lowering, f"{job.folder}/{DATA}")
    cache = cache_entry(job)
    if four_bits and job.module.arch is not None:
        cache |= {"dtype": "uint8", "type": "uint4", "row_bytes": row_bytes(job.module.arch.head_dim)}
    return Emission(
        "chain",
        parts,
        libraries=_libraries(job, lookup),
        notes=notes,
        kv=cache,
        stored=stored,
        layout=layout,
        sparse=sparse,
    )


def _packed_caches(job: EmitJob) -> bool:
    """Give the caches of the job's parts the form of bytes where the plan holds them in 4 bits; whether it does."""
    if not any(KV_TYPE.get(model.graph) == "uint4" for model in job.module.graphs.values()):
        return False
    for part in job.parts:
        part.graphs = {bucket: clone_model(model) for bucket, model in part.graphs.items()}
        for model in part.graphs.values():
            pack_cache(model.graph)
    return True


def _stored(before: dict[str, ir.Model], lowering: OrtLowering, halves: HalfFloats) -> dict[str, StoredWeight]:
    """Each weight of these parts as it is in the file."""
    found = {}
    for linear in (one for model in before.values() for one in linears(lowering.module, model.graph)):
        made = lowering.lowered.get(linear.name)
        if made is not None and made.quant is not None:
            packed = lowering.packed[id(made.quant.q)]
            found[linear.name] = StoredWeight(packed.nbytes, bits=stored_bits(made.quant))
        elif is_lookup(linear.node):
            found[linear.name] = lookup_bytes(linear)
        elif linear.name in halves.stored:
            found[linear.name] = floats(halves.stored[linear.name])
        else:
            found[linear.name] = as_in_module(linear)
    return found


def _file(part: Part, bucket: str) -> str:
    short = part.name.rpartition(".")[2]
    return short if bucket == MAIN else f"{short}_{bucket}"


def _dequantises(models: dict[str, ir.Model]) -> bool:
    """Whether an op reads what a DequantizeLinear makes; the pair that rounds an output has no op behind it."""
    found = (node for model in models.values() for node in model.graph if node.op_type == "DequantizeLinear")
    return any(node.outputs[0].uses() for node in found)


def _entry(
    job: EmitJob,
    part: Part,
    level: str,
    lookup: str | None,
    shapes: tuple[Shape, ...],
) -> dict[str, Any]:
    files = {bucket: f"{job.folder}/{_file(part, bucket)}.onnx" for bucket in part.graphs}
    graphs = {bucket: graph_entry(job, part, bucket, file) for bucket, file in files.items()}
    for spec in (spec for graph in graphs.values() for spec in (*graph["inputs"], *graph["outputs"])):
        if kv_names.is_cache(spec["name"]) and spec["dtype"] == "uint8":
            spec["packed"] = {"type": "uint4", "groups": groups_of(job.module.arch.head_dim if job.module.arch else 1)}
    return {
        "model": job.module.name,
        "device": part.device,
        "target": "ort",
        "file": next(iter(graphs.values()))["file"],
        "graphs": graphs,
        "details": {
            "optimisation": level,
            **vars(job.options),
            "data": DATA,
            **({"lookup": lookup, "kernels": f"{job.folder}/{KERNELS}"} if lookup else {}),
            **({"specialised": [list(shape) for shape in shapes]} if shapes else {}),
        },
    }


def _libraries(job: EmitJob, lookup: str | None) -> list[dict[str, str]]:
    if job.device.is_host:
        return []
    made = version("onnxruntime")
    source = f"Maven com.microsoft.onnxruntime:onnxruntime-android:{made}, jni/arm64-v8a"
    row = {"file": "libonnxruntime.so", "engine": "ort", "why": "runs the parts on the CPU"}
    found = [{**row, "version": made, "from": source}]
    if lookup:
        script = f"{job.folder}/{KERNELS}/{SCRIPT}"
        why = f"multiplies linears by table lookup; `{script}` builds it"
        found.append({"file": LIBRARY, "engine": "ort", "why": why, "from": f"`{script}` of the bundle, with the NDK"})
    return found
