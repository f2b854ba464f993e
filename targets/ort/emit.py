"""Write the parts as ONNX files, read them back, and hold their numbers against the oracle.

<folder>/<part>.onnx                one graph without buckets
<folder>/<part>_<bucket>.onnx       or one per bucket; all weights of all of them, once, in <folder>/ort.data
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from ...compiler.diagnostics.diagnostic import EngineError, fail
from ...compiler.emit.manifest_entries import cache_entry, graph_entry
from ...compiler.emit.part import Part
from ...compiler.emit.target import Emission, EmitJob
from ...compiler.ir.module import MAIN
from ...compiler.ir.save import save_graphs
from .lower import OrtLowering
from .pack import stored_bits
from .read_back import read_back
from .session import EXACT, FAST, OrtGraph

DATA = "ort.data"
_COMPARED = 64 << 20  # bytes of float32 weights up to which the emitted graphs are run against the oracle
_BOUND = {"float32": 2e-4, "int8": 0.15}  # sums in another order, or activations in steps of 1/127, layers deep


def emit(job: EmitJob) -> Emission:
    """Write the job's parts; the manifest's entries."""
    packs = job.options.format == "matmulnbits"
    lowering = OrtLowering(job.module, int8=job.options.compute == "int8")
    before = {_file(part, bucket): model for part in job.parts for bucket, model in part.graphs.items()}
    after = {file: lowering.run(model) if packs else model for file, model in before.items()}
    folder = job.directory / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    job.progress(f"{job.module.name}: writing {len(after)} graphs for ONNX Runtime")
    paths = save_graphs(after, folder, DATA)
    read_back(paths, after, lowering, job)
    level = FAST if packs and not _dequantises(after) else EXACT
    _compare(before, paths, level, job)
    parts = {part.name: _entry(job, part, level) for part in job.parts}
    notes = [f"`{name}` keeps DequantizeLinear: {why}" for name, why in lowering.left.items()]
    return Emission("chain", parts, _libraries(job), notes, cache_entry(job), stored=_bits(lowering))


def _bits(lowering: OrtLowering) -> dict[str, int]:
    quantised = {name: linear.quant for name, linear in lowering.lowered.items()}
    return {name: stored_bits(quant) for name, quant in quantised.items() if quant is not None}


def _file(part: Part, bucket: str) -> str:
    short = part.name.rpartition(".")[2]
    return short if bucket == MAIN else f"{short}_{bucket}"


def _dequantises(models: dict[str, ir.Model]) -> bool:
    return any(node.op_type == "DequantizeLinear" for model in models.values() for node in model.graph)


def _compare(before: dict[str, ir.Model], paths: dict[str, Path], level: str, job: EmitJob) -> None:
    """Run each emitted graph of a small model as it will run, on random inputs, beside the oracle."""
    from ...compiler.oracle import oracle
    from ...compiler.oracle.compare import random_feeds, relative_error

    bound = _BOUND[job.options.compute]
    for file, model in before.items():
        size = sum(v.const_value.size for v in model.graph.initializers.values() if v.const_value is not None)
        if 4 * size > _COMPARED:
            job.progress(f"{job.module.name}: {file} is too big to be run beside the oracle here")
            continue
        feeds = random_feeds(model.graph, job.module.arch)
        expected = oracle.run(model, feeds)
        session = OrtGraph(paths[file], level)
        for name, made in session.run(feeds).items():
            error = relative_error(expected[name], made)
            if not error <= bound:
                fail(
                    "E0802",
                    f"ONNX Runtime computes output `{name}` of `{paths[file].name}` {error:.2g} (of its largest "
                    f"value) off what the module says, allowed is {bound:g}",
                    job.origin,
                    help="use `as ort { format = dequantize }`, which keeps standard operators",
                    kind=EngineError,
                )
        session.close()


def _entry(job: EmitJob, part: Part, level: str) -> dict[str, Any]:
    files = {bucket: f"{job.folder}/{_file(part, bucket)}.onnx" for bucket in part.graphs}
    graphs = {bucket: graph_entry(job, part, bucket, file) for bucket, file in files.items()}
    return {
        "model": job.module.name,
        "device": part.device,
        "target": "ort",
        "file": next(iter(graphs.values()))["file"],
        "graphs": graphs,
        "details": {"optimisation": level, **vars(job.options), "data": DATA},
    }


def _libraries(job: EmitJob) -> list[dict[str, str]]:
    if job.device.is_host:
        return []
    return [{"file": "libonnxruntime.so", "engine": "ort", "why": "runs the parts on the CPU"}]
