"""Write the parts of a model as ONNX files, and compare each with the oracle before it ships.

<model>/<part>_<bucket>.onnx      one file per graph; the weights of all of them, once, in <model>/plain.data
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgec.api import (
    Emission,
    EmitJob,
    EngineError,
    cache_entry,
    fail,
    graph_entry,
    random_feeds,
    relative_error,
    run_oracle,
    save_graphs,
)

from .session import MARK, PlainGraph

if TYPE_CHECKING:
    from pathlib import Path

    from onnx_ir import Model

_BOUND = 2e-4  # of the largest value of an output: sums in another order, layers deep


def emit(job: EmitJob) -> Emission:
    """Files and manifest entries of the job's parts."""
    folder = job.directory / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    names = {(part.name, bucket): f"{part.name}_{bucket}" for part in job.parts for bucket in part.graphs}
    models = {names[part.name, bucket]: model for part in job.parts for bucket, model in part.graphs.items()}
    for model in models.values():
        model.metadata_props[MARK] = job.module.name
    for name, path in save_graphs(models, folder, "plain.data").items():
        job.progress(f"{job.module.name}: running {path.name} beside the oracle")
        _compare(models[name], path, job)
    parts = {}
    for part in job.parts:
        files = {bucket: f"{job.folder}/{names[part.name, bucket]}.onnx" for bucket in part.graphs}
        parts[part.name] = {
            "model": job.module.name,
            "device": part.device,
            "target": "plain",
            "file": next(iter(files.values())),
            "graphs": {bucket: graph_entry(job, part, bucket, file) for bucket, file in files.items()},
            "details": {"threads": job.options.threads},
        }
    return Emission("chain", parts, kv=cache_entry(job))


def _compare(model: Model, path: Path, job: EmitJob) -> None:
    feeds = random_feeds(model.graph, job.module.arch)
    session = PlainGraph(path, job.options.threads)
    made, expected = session.run(feeds), run_oracle(model, feeds)
    session.close()
    for name, values in made.items():
        error = relative_error(expected[name], values)
        if not error <= _BOUND:
            message = f"output `{name}` of `{path.name}` is {error:.2g} (of its largest value) off the module's"
            fail("PLAIN02", message, job.origin, help=f"allowed is {_BOUND:g}", kind=EngineError)
