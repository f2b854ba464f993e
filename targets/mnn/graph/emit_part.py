"""One part of a general graph as a `.mnn`: by edgec's rules where they cover it, else by MNN's own converter, proven.

edgec   every op has a handler and a row of the conformance table (`lower.py`, `emit_graph.py`)
engine  the converter (`convert.py`); the file it wrote is held against ONNX Runtime before it counts, and nodes that
        it lacks, dies of or computes wrong are told (`NotTaken`), for a compile to put elsewhere
"""

from __future__ import annotations

import itertools
import os
from contextlib import closing
from typing import TYPE_CHECKING

import onnx_ir as ir

from ....compiler.diagnostics.diagnostic import EdgecError, EngineError, fail
from ....compiler.files.scratch import scratch_folder
from ....compiler.ir.float_weights import with_float_weights
from ....compiler.ir.levels import Level
from ....compiler.ir.module import MAIN, Module
from ....compiler.oracle.compare import EDGES
from ....compiler.proof.errors import FLOAT16, FLOAT32, relative_errors
from ....compiler.proof.not_taken import NotTaken
from ....compiler.proof.prove import Proof
from ....compiler.proof.whole_feeds import whole_feeds
from ..file.read_back import weight_file
from ..run.engine import MnnGraph
from .convert import ENGINE, convert, open_weights, stored_bits
from .emit_graph import SHIPPED_BOUND, GraphFiles, emit_graph
from .own_integers import put_integers

if TYPE_CHECKING:
    from pathlib import Path

    from ....compiler.emit.part import Part
    from ....compiler.emit.target import EmitJob


_SHOWN = 3


def emit_part(job: EmitJob, part: Part) -> GraphFiles:
    """Write a part below the job's folder; see the module's text for what is raised."""
    module = _module(job.module, part)
    file = module.name if len(job.parts) == 1 and not job.beside else part.name.rpartition(".")[2]
    folder, options = job.directory / job.folder, job.options
    if options.lowering == "engine":
        return _by_the_engine(job, module, file, "")
    try:
        return emit_graph(module, folder, options.written, options.threads, file)
    except EdgecError as error:
        if options.lowering == "edgec" or not job.prove:
            raise
        for path in (folder / f"{file}.mnn", weight_file(folder / f"{file}.mnn")):
            path.unlink(missing_ok=True)
        return _by_the_engine(job, module, file, error.diagnostics[0].message)


def _module(module: Module, part: Part) -> Module:
    """The part as a module of its own, with the samples of the whole: they are for inputs of that name."""
    if part.graphs[MAIN] is module.graphs.get(MAIN):
        return module
    return Module(module.name, dict(part.graphs), Level.SEMANTIC, None, module.source, samples=module.samples)


def _by_the_engine(job: EmitJob, module: Module, file: str, why: str) -> GraphFiles:
    folder, options = job.directory / job.folder, job.options
    if unknown := open_weights(module.main.graph):
        raise NotTaken(ENGINE, module.name, unknown)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{file}.mnn"
    bits, block, floats_why = stored_bits(module.main)
    notes = [f"`{path.name}` is {ENGINE}'s: {why}"] if why else []
    notes += [f"`{path.name}`: {floats_why}"] if floats_why else []
    floats = with_float_weights(module.main)
    threads = min(options.threads, os.cpu_count() or 1)
    called = whole_feeds(job.module, module.main)
    halves = any(value.dtype == ir.DataType.FLOAT16 for node in floats.graph for value in node.outputs)
    arithmetic = FLOAT16 if halves else FLOAT32  # MNN computes in float32 what the oracle rounds to halves
    proof = Proof(floats, module.name, ENGINE, arithmetic, module.samples, called, slower=job.slower, say=job.progress)
    job.progress(f"{module.name}: {ENGINE} makes `{path.name}`; proving it, {proof.outlook()}")
    with scratch_folder("mnn") as scratch:
        tries = itertools.count()

        def build(graph: ir.Model) -> MnnGraph:
            made = path if graph is floats else scratch / f"{next(tries)}.mnn"
            convert(graph, made, module.name)
            return _opened(made, graph, "normal", threads)

        proven = proof.judge(build)
    facts, errors, memory = proven.facts(), proven.errors, "normal"
    if bits:
        memory = options.written
        convert(floats, path, module.name, bits, block)
        left = put_integers(path, module.main.graph)
        errors = _as_shipped(proof, _opened(path, floats, memory, threads), memory)
        facts["weights"] = f"int{bits}" + (f" block {block}" if block else "")
        if left:
            shown = ", ".join(f"`{name}`" for name in left[:_SHOWN]) + (", …" if len(left) > _SHOWN else "")
            notes.append(f"{ENGINE} rounds {shown} to integers of its own: it had changed these weights before")
    return GraphFiles(path.name, {}, {}, errors, lowering="engine", memory=memory, proof=facts, notes=notes)


def _opened(path: Path, model: ir.Model, memory: str, threads: int) -> MnnGraph:
    inputs, outputs = ([v.name or "" for v in values] for values in (model.graph.inputs, model.graph.outputs))
    return MnnGraph(path, inputs, outputs, memory, threads, f"MNN running `{path.name}`")


def _as_shipped(proof: Proof, session: MnnGraph, memory: str) -> dict[str, float]:
    """The errors with the converter's integers, in the mode that ships; E0711 beyond what rounding them costs."""
    worst: dict[str, float] = {}
    with closing(session):
        for trial in proof.trials:
            if trial.kind not in EDGES:
                for name, error in relative_errors(session.run(trial.feeds), trial.expected).items():
                    worst[name] = max(worst.get(name, 0.0), error)
    for name, error in worst.items():
        if not error <= SHIPPED_BOUND:
            message = f"`{name}` of `{proof.name}` is off by {error:.2g} of its range with MNN's integers"
            help = "leave the first or last linears out of `quantize`, or use wider integers"
            fail("E0711", f"{message} and `memory = {memory}`", help=help, kind=EngineError)
    return worst
