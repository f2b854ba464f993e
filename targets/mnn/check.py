"""What the plan's checker says about a deploy to MNN."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...compiler.diagnostics.diagnostic import Diagnostic, Label, Span
from ...compiler.files.scratch import scratch_folder

if TYPE_CHECKING:
    from ...compiler.emit.capabilities import Refusal
    from ...compiler.emit.target import TakesRequest
    from ...compiler.ir.module import Module


def no_tokenizer(folder: Path, at: Span | None = None) -> Diagnostic:
    """MNN's LLM engine reads text itself, with a tokenizer made from the model's own."""
    message = f"`{folder}` has no `tokenizer.json`, which an MNN-LLM bundle is made from"
    help = "save the model's tokenizer there with transformers, or deploy it `as ort`"
    return Diagnostic("E0705", message, Label(at) if at else None, help=help)


def refuse_tokenizer(module: Module) -> None:
    """Fail if MNN's tokenizer cannot carry the model's, or does not answer as `tokenizers` does."""
    folder = module.tokenizer_folder
    if module.arch is None or folder is None or not (folder / "tokenizer.json").is_file():
        return
    from .tokenizer.agreement import check
    from .tokenizer.mtok import write_mtok

    with scratch_folder("mnn") as scratch:
        write_mtok(folder / "tokenizer.json", scratch / "tokenizer.mtok", module.arch.eos)
        check(scratch / "tokenizer.mtok", folder / "tokenizer.json")


def refused_parts(request: TakesRequest) -> list[Refusal]:
    """What MNN has no form for in parts that it runs beside another engine: plain graphs, whatever the model is."""
    from ...compiler.ir.module import MAIN, Module
    from .conformance.table import legality
    from .graph.lower import GraphLowering

    found = []
    with open(os.devnull, "wb") as nowhere:
        for model in (model for part in request.parts for model in part.graphs.values()):
            graph = GraphLowering(Module(request.module.name, {MAIN: model}), nowhere, legality())
            graph.visit()
            found += graph.refused
    return found


def refuse_order(module: Module) -> list[Refusal]:
    """A file of a general graph has the order of its ops, which MNN's converter may have written."""
    from ...compiler.emit.capabilities import Refusal
    from ...compiler.ir.annotations import ORDER

    if module.arch is not None or ORDER.get(module.main) is None:
        return []
    message = f"`as mnn` orders the weights of decoders only, and `{module.name}` is another graph"
    return [Refusal("E0242", message, help="leave `layout` out of this pipeline, or deploy the model `as ort`")]


def refused_graph(request: TakesRequest) -> list[Refusal]:
    """What MNN has no form for in a dry module: nothing is written."""
    module = request.module
    with open(os.devnull, "wb") as nowhere:
        if module.arch is not None:
            from .decoder.lower import DecoderLowering

            decoder = DecoderLowering(module, nowhere)
            decoder.visit()
            return decoder.refused
        from .conformance.table import legality
        from .graph.lower import GraphLowering

        graph = GraphLowering(module, nowhere, legality())
        graph.visit()
        return graph.refused
