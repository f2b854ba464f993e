"""Which engine runs the parts beside an NPU, where the deploy line names another than the one that always can.

    as qnn { cpu_parts = mnn }      part on the CPU --all its ops have forms there--> MNN
                                                    --one has none------------------> ONNX Runtime, and a note says why

A part is asked for dry: no weight is read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..diagnostics.wording import quoted, some_of
from ..emit.refusals import grouped
from ..ir.clone import clone_model
from ..ir.levels import Level
from ..ir.module import Module

if TYPE_CHECKING:
    from ..emit.part import Part
    from ..emit.target import Target
    from ..partition.parts import PartGraph
    from ..plan.plan import Deploy

_SHOWN = 3


def give_cpu_parts(module: Module, deploy: Deploy, cut: PartGraph) -> tuple[PartGraph, list[str]]:
    """The parts with the target that the deploy line's `cpu_parts` names where it takes them; notes on the others."""
    from ..registry import find_target, part_target

    wished = getattr(deploy.options, "cpu_parts", "")
    own = [part for part in cut.parts if part.device == "cpu" and part.device != deploy.device and not part.target]
    if not wished or wished == part_target(deploy.target, "cpu").name:
        return cut, []
    if not own:
        return cut, [f"`cpu_parts = {wished}` changes nothing: no part of `{module.name}` runs on the CPU"]
    target = find_target(wished)
    why = {part.name: _refused(module, target, part) for part in own}
    parts = [replace(part, target=wished) if why.get(part.name) == "" else part for part in cut.parts]
    return replace(cut, parts=parts), _told(wished, {name: text for name, text in why.items() if text})


def _refused(module: Module, target: type[Target], part: Part) -> str:
    """Why `target` does not take a part; empty where it does."""
    from ..emit.target import TakesRequest
    from ..plan.devices import devices
    from .dry_run import dried

    graphs = {bucket: clone_model(model) for bucket, model in part.graphs.items()}
    dry = dried(Module(module.name, graphs, Level.SEMANTIC, None, module.source))
    request = TakesRequest(module, [replace(part, graphs=dry.graphs)], devices()["host"], target.Options(), beside=True)
    found = grouped(target().takes(request))
    return found[0].message if found else ""


def _told(wished: str, why: dict[str, str]) -> list[str]:
    """One note for each reason."""
    by_reason: dict[str, list[str]] = {}
    for name, text in why.items():
        by_reason.setdefault(text, []).append(name)
    notes = []
    for text, names in by_reason.items():
        shown = some_of(quoted(names), _SHOWN)
        notes.append(f"ONNX Runtime runs {shown} in spite of `cpu_parts = {wished}`: {text}")
    return notes
