"""A model behind its steps in parts, the target that emits each, and where their values lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..emit.part import Part
    from ..emit.target import Target
    from ..ir.module import Module
    from ..memory.memory_plan import MemoryPlan
    from ..partition.parts import PartGraph
    from ..pipeline.step import Step
    from ..plan.plan import Deploy


def placed_by(steps: Sequence[Step], deploy: Deploy) -> Callable[[str], bool]:
    """Whether a step puts an op of that name where the model is deployed."""
    from ..pipeline.pass_interface import Scope

    scopes = [Scope(step.on, step.except_) for step in steps if deploy.device in step.demands.places]
    return lambda name: any(scope.selects(name) for scope in scopes)


def cut_module(module: Module, deploy: Deploy, steps: Sequence[Step]) -> PartGraph:
    """The module behind `steps` in parts, or as one part for an engine that runs a model whole.

    Where the target has no lookup in integers, embeddings go to the CPU unless a step has placed them.
    """
    from ..emit.part import Part
    from ..partition.lacking import lacking_on_cpu
    from ..partition.lookups import look_up_on_cpu, lost_sharing
    from ..partition.parts import PartGraph, partition
    from ..partition.shadows import shadows_on_cpu
    from ..registry import find_target
    from .cpu_parts import give_cpu_parts

    kept = placed_by(steps, deploy)
    target = find_target(deploy.target)
    if target.engine == "chain" or module.arch is None:  # an engine of language models is a chain for other graphs
        moved = [] if target.capabilities.lookups else look_up_on_cpu(module, deploy.device, kept)
        by_engine = module.arch is None and getattr(deploy.options, "lowering", "edgec") != "edgec"
        fallen = [] if by_engine else lacking_on_cpu(module, deploy.device, target().lacking, kept)
        beside = shadows_on_cpu(module, deploy.device)
        beside += target().before_cut(module, deploy.options)
        parts = partition(module, deploy.device)
        parts, left = give_cpu_parts(module, deploy, parts)
        notes = (*moved, *lost_sharing(module, deploy.device), *beside, *left)
        return replace(parts, notes=notes, fallen=tuple(fallen))
    return PartGraph([Part(f"{module.name}.{deploy.device}0", deploy.device, dict(module.graphs))])


def planned_memory(deploy: Deploy, parts: Sequence[Part]) -> MemoryPlan:
    """Where the values of a deploy's parts lie while they run, with what their engines take inside ops."""
    from ..memory.memory_plan import plan_memory

    emits = {part.name: cls for cls, own in parts_by_target(deploy, parts).items() for part in own}
    options = {cls: deploy.options if cls.name == deploy.target else cls.Options() for cls in emits.values()}

    def workspace(part: Part, node: ir.Node) -> int:
        cls = emits[part.name]
        return cls().workspace(node, options[cls])

    return plan_memory(parts, workspace)


def parts_by_target(deploy: Deploy, parts: Sequence[Part]) -> dict[type[Target], list[Part]]:
    """The target that emits each part: that of its device (`registry.part_target`)."""
    from ..registry import find_target, part_target

    found: dict[type[Target], list[Part]] = {}
    for part in parts:
        cls = find_target(part.target) if part.target else part_target(deploy.target, part.device)
        found.setdefault(cls, []).append(part)
    return found
