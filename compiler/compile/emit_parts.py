"""The parts of a deploy line to files, again where an engine turns out not to be able to have some of their nodes.

    cut -> emit;  NotTaken -> those nodes to ONNX Runtime on the CPU -> cut -> emit -> …

An engine that lowers a general graph by itself says only then what it lacks, and a proof only then what it computes
wrong. With `fallback = none` the same is done to the end, and all that was found is refused at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..diagnostics.diagnostic import Diagnostic, PlanError
from ..emit.engine_lowering import falls_back
from ..ir.annotations import DEVICE, ENGINE
from ..ir.graph_queries import with_sequences
from ..proof.not_taken import NotTaken, Wrong, not_taken

if TYPE_CHECKING:
    from ..ir.module import Module
    from ..partition.parts import PartGraph
    from ..plan.plan import Deploy

BESIDE = "ort"  # what runs on the CPU what an engine is not to have
_ROUNDS = 40
Emitted = TypeVar("Emitted")


def emit_parts(
    module: Module,
    deploy: Deploy,
    cut: Callable[[], PartGraph],
    emit: Callable[[PartGraph], Emitted],
    folder: Path,
    kept: Callable[[str], bool],
    say: Callable[[str], None],
) -> tuple[PartGraph, Emitted, list[Wrong]]:
    """The parts, what `emit` made of them, and the nodes that are not the engine's; PlanError with everything refused.

    `folder`: where the files go, emptied between two attempts. `kept`: whether the plan has a node of that name stay.
    """
    found: list[Wrong] = []
    moved: set[str] = set()
    engine = ""
    for _ in range(_ROUNDS):
        try:
            parts = cut()
        except PlanError as error:  # a loop that cannot be cut out: with what would have had to be
            raise PlanError(*(not_taken(engine, deploy.model, one) for one in found), *error.diagnostics) from None
        if found and not any(part.device == deploy.device and not part.target for part in parts.parts):
            raise _nothing_left(deploy, engine, found)
        try:
            emission = emit(parts)
        except NotTaken as refused:
            engine = refused.engine
            fresh = [node for node in refused.nodes if not moved.issuperset(node.nodes)]
            found += fresh
            names = {name for node in fresh for name in node.nodes}
            moved |= names
            if not fresh or not _move(module, deploy.device, names):
                raise _nothing_left(deploy, engine, found) from refused
            for node in fresh:
                say(f"{deploy.model}: {node.text()}; {BESIDE} runs it")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            continue
        held = [node for node in found if any(map(kept, node.nodes)) or not falls_back(deploy.options)]
        if held:
            raise PlanError(*(not_taken(engine, deploy.model, node) for node in held))
        return parts, emission, found
    raise _nothing_left(deploy, engine, found)


def _move(module: Module, device: str, names: Collection[str]) -> bool:
    """Let ONNX Runtime have these nodes on the CPU; whether anything is left that computes."""
    left = 0
    for model in module.graphs.values():
        moved = with_sequences(model.graph, names)
        for node in model.graph:
            if node.name in moved:
                DEVICE.set(node, "cpu")
                if device == "cpu":
                    ENGINE.set(node, BESIDE)
            elif DEVICE.get(node) in (None, device) and ENGINE.get(node) is None:
                left += 1
    return left > 0


def _nothing_left(deploy: Deploy, engine: str, nodes: Sequence[Wrong]) -> PlanError:
    listed = [not_taken(engine, deploy.model, node) for node in nodes]
    message = f"nothing of `{deploy.model}` is left that {engine} can have"
    return PlanError(*listed, Diagnostic("E0508", message, help=f"deploy it `on cpu as {BESIDE}`"))
