"""Parts that MNN runs beside another engine: for each bucket of each part a `.mnn` of edgec's rules.

<model>/<part>_<bucket>.mnn, .mnn.weight      the graph and its weights (`emit_graph.py`), held against ONNX Runtime
<model>/<part>_<bucket>.plain.onnx            what `verify` holds it against (`plain_graph.py`)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ....compiler.diagnostics.diagnostic import EdgecError
from ....compiler.ir.levels import Level
from ....compiler.ir.module import MAIN, Module
from .emit_graph import GraphFiles, Processes, emit_graph, processes
from .plain_graph import write_plain

if TYPE_CHECKING:
    import onnx_ir as ir

    from ....compiler.emit.part import Part
    from ....compiler.emit.target import EmitJob

_INSTEAD = "leave `cpu_parts = mnn` out of the deploy line: ONNX Runtime runs any such part"


def emit_beside(job: EmitJob) -> Iterator[tuple[Part, dict[str, GraphFiles]]]:
    """Each part of the job with what was written of it, by bucket; E0711 where MNN computes one wrong."""
    with processes() as shared:
        for part in job.parts:
            yield part, {bucket: _emit(job, part, bucket, model, shared) for bucket, model in part.graphs.items()}


def _emit(job: EmitJob, part: Part, bucket: str, model: ir.Model, shared: Processes) -> GraphFiles:
    short = part.name.rpartition(".")[2]
    file = short if bucket == MAIN else f"{short}_{bucket}"
    module = Module(job.module.name, {MAIN: model}, Level.SEMANTIC, None, job.module.source)
    folder = job.directory / job.folder
    try:
        made = emit_graph(module, folder, job.options.written, job.options.threads, file, shared)
    except EdgecError as error:
        told = (replace(one, help=_INSTEAD) for one in error.diagnostics)
        raise type(error)(*told) from error
    made.plain = write_plain(model, made.blobs, folder / made.file)
    return made
