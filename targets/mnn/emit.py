"""What the target writes for one deploy, and the manifest's entries for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...compiler.diagnostics.diagnostic import fail
from ...compiler.diagnostics.wording import count
from ...compiler.emit.manifest_entries import graph_entry, tensor_entry
from ...compiler.emit.sparse_integers import SparseIntegers, sparse_integers
from ...compiler.emit.stored_weight import StoredWeight
from ...compiler.emit.target import Emission, EmitJob
from .run.bundle_config import RUN, RUN_KEYS, read_config

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...compiler.ir.linears import Linear
    from .file.weight_blobs import Blob

_LIBRARIES = (
    {"file": "libMNN.so", "engine": "mnn", "why": "the engine"},
    {"file": "libMNN_Express.so", "engine": "mnn", "why": "the module interface"},
)
_LLM_LIBRARY = {"file": "libllm.so", "engine": "mnn", "why": "the LLM engine: tokenizer, cache, sampling"}


def emit(job: EmitJob) -> Emission:
    """A decoder becomes an MNN-LLM bundle, anything else a plain graph."""
    from ...compiler.ir.annotations import DEVICE

    if job.beside:
        return _emit_beside(job)
    for node in job.module.nodes() if job.module.arch is not None else ():
        if DEVICE.get(node) not in (None, "cpu"):
            message = f"MNN runs `{job.module.name}` whole on the CPU, and `{node.name}` is placed on the NPU"
            fail("E0708", message, job.origin, help="leave `place` out of the pipeline of this deploy")
    return _emit_llm(job) if job.module.arch is not None else _emit_graph(job)


def _emit_llm(job: EmitJob) -> Emission:
    from ...compiler.ir.annotations import ORDER
    from ...compiler.ir.ordered_data import PAGE, index_of_places
    from .decoder.emit_llm import WEIGHTS, emit_llm
    from .file.embedding import BF16_FILE

    (part,) = job.parts
    made = emit_llm(job.module, job.directory / job.folder, job.options.written, job.options.threads)
    entry = _part(job, part.device, f"{job.folder}/config.json", "llm.mnn", part.graphs["main"])
    entry["details"] = {
        "memory": job.options.written,
        "embedding": made.embedding,
        "weights": {name: blob.describe() for name, blob in made.blobs.items()},
    }
    libraries = _sourced([*_LIBRARIES, _LLM_LIBRARY])
    stored = {name: _stored(blob) for name, blob in made.blobs.items()}
    if "embed_tokens" not in stored:  # in a file of its own
        stored["embed_tokens"] = StoredWeight((job.directory / job.folder / BF16_FILE).stat().st_size, "bfloat16")
    sparse = _sparse(f"{job.folder}/{WEIGHTS}", made.blobs, made.linears)
    layout = {}
    if order := ORDER.get(job.module.main):
        file = f"{job.folder}/{WEIGHTS}"
        layout = {"order": order, "file": file, "page": PAGE, "kinds": index_of_places(made.places)}
    return Emission(
        "mnn-llm",
        {part.name: entry},
        libraries=libraries,
        notes=made.notes,
        stored=stored,
        sparse=sparse,
        layout=layout,
    )


def _sourced(libraries: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """With the version whose files these are, and where a phone's libraries of it come from."""
    made = version("MNN")
    source = f"MNN {made}, built with Android's NDK for arm64-v8a (project/android, -DMNN_BUILD_LLM=ON)"
    return [{**row, "version": made, "from": source} for row in libraries]


def _emit_graph(job: EmitJob) -> Emission:
    from .file.read_back import weight_file
    from .graph.emit_part import emit_part

    whole = Emission("chain", {}, libraries=_sourced(_LIBRARIES))
    for part in job.parts:
        made = emit_part(job, part)
        entry = _part(job, part.device, f"{job.folder}/{made.file}", "main", part.graphs["main"])
        entry["details"] = {
            "memory": made.memory or job.options.written,
            "threads": job.options.threads,
            "max_error": made.errors,
            "lowering": made.lowering,
            "weights": {name: blob.describe() for name, blob in made.blobs.items()},
        } | ({"proof": made.proof, "converter": f"MNN {version('MNN')}"} if made.proof else {})
        whole.parts[part.name] = entry
        whole.stored |= {name: _stored(blob) for name, blob in made.blobs.items()} | made.stored
        whole.sparse += _sparse(f"{job.folder}/{weight_file(Path(made.file))}", made.blobs, made.linears)
        whole.notes += made.notes
    return whole


def _emit_beside(job: EmitJob) -> Emission:
    """Parts of a model that another target is deployed for: a plain graph for each of their buckets."""
    from .file.read_back import weight_file
    from .graph.beside import emit_beside

    whole = Emission("chain", {}, libraries=[] if job.device.is_host else _sourced(_LIBRARIES))
    graphs = count(sum(len(part.graphs) for part in job.parts), "graph")
    job.progress(f"{job.module.name}: writing {graphs} for MNN")
    for part, made in emit_beside(job):
        files = {bucket: f"{job.folder}/{one.file}" for bucket, one in made.items()}
        first = next(iter(made.values()))
        whole.parts[part.name] = {
            "model": job.module.name,
            "device": part.device,
            "target": "mnn",
            "file": next(iter(files.values())),
            "graphs": {bucket: _graph_as_held(graph_entry(job, part, bucket, file)) for bucket, file in files.items()},
            "details": {
                "memory": job.options.written,
                "threads": job.options.threads,
                "max_error": {bucket: one.errors for bucket, one in made.items()},
                "lowering": "edgec",
                "weights": {name: blob.describe() for name, blob in first.blobs.items()},
                "plain": {bucket: f"{job.folder}/{one.plain.name}" for bucket, one in made.items() if one.plain},
            },
        }
        whole.stored |= {name: _stored(blob) for name, blob in first.blobs.items()}
        for one, file in zip(made.values(), files.values(), strict=True):
            whole.sparse += _sparse(str(weight_file(Path(file))), one.blobs, one.linears)
        whole.notes += [note for one in made.values() for note in one.notes if note not in whole.notes]
    return whole


def set_memory(folder: Path, memory: str, parts: Mapping[str, dict[str, Any]]) -> None:
    """Let a written LLM bundle run in another memory mode: one key of its config.json, and of its parts' entries."""
    path = folder / RUN
    config = {**read_config(path, RUN_KEYS), "memory": memory}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for part in parts.values():
        part["details"]["memory"] = memory


def _sparse(file: str, blobs: Mapping[str, Blob], linears: Mapping[str, Linear]) -> list[SparseIntegers]:
    """The integers in the weight file that have a pattern; a table that is tied to the head comes twice."""
    found = []
    for name, blob in blobs.items():
        quant = linears[name].quant if name in linears else None
        if quant is not None and blob.bits < 16:
            shift = 1 << (blob.bits - 1) if quant.q.dtype.is_signed() else 0
            offset = blob.offset + blob.header_bytes
            found.append(
                sparse_integers(quant, file=file, name=name, offset=offset, bits=blob.bits, order="big", shift=shift)
            )
    return [one for one in found if one is not None]


def _stored(blob: Blob) -> StoredWeight:
    if blob.bits >= 16:
        return StoredWeight(blob.code_bytes, f"float{blob.bits}")
    return StoredWeight(blob.code_bytes + blob.alpha_bytes, bits=blob.bits)


def _part(job: EmitJob, device: str, file: str, graph: str, model: ir.Model) -> dict[str, Any]:
    body = model.graph
    return {
        "model": job.module.name,
        "device": device,
        "target": "mnn",
        "file": file,
        "graphs": {
            "main": {
                "graph": graph,
                "inputs": [_tensor(value, "feed") for value in body.inputs],
                "outputs": [_tensor(value, None) for value in body.outputs],
            }
        },
    }


def _tensor(value: ir.Value, source: str | None) -> dict[str, Any]:
    return {**_as_held(tensor_entry(value)), "source": source}


def _as_held(spec: dict[str, Any]) -> dict[str, Any]:
    """A tensor's entry in the types of MNN, which has no others: float32, and int32 for integers and choices."""
    return {**spec, "dtype": "float32" if "float" in spec["dtype"] else "int32"}


def _graph_as_held(graph: dict[str, Any]) -> dict[str, Any]:
    return graph | {side: [_as_held(spec) for spec in graph[side]] for side in ("inputs", "outputs")}
