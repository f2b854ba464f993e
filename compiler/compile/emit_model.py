"""The files of a deploy line: its parts given to their targets, or taken from the cache where they were kept."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..ir import kv_names
from .cut_module import cut_module, parts_by_target, placed_by

if TYPE_CHECKING:
    from ..emit.part import Part
    from ..emit.target import Emission, EmitJob, Target
    from ..ir.module import Module
    from ..partition.parts import PartGraph
    from ..plan.plan import Deploy, Plan
    from ..proof.not_taken import Wrong
    from .options import CompileOptions

_COPIED = 50e6  # bytes a second: files that are written faster are not worth a copy in the cache, sealed and synced


def emitted(
    module: Module, plan: Plan, deploy: Deploy, directory: Path, options: CompileOptions, keep: bool = False
) -> tuple[PartGraph, Emission, list[Wrong]]:
    """The parts of a module behind its steps, what was written of them, and the nodes that are not the engine's.

    What was written is kept for later compiles where the first cut was the last (they cut as this one did) and where
    writing it took longer than a copy does, or whatever it took if it is to be kept.
    """
    from .emit_parts import emit_parts
    from .kept_emission import keep_emission

    if options.ready is not None:
        options.ready(deploy.model, "lowered")
    steps, folder, start = plan.steps(deploy), directory / deploy.model, time.perf_counter()
    cut, emission, fallen = emit_parts(
        module,
        deploy,
        lambda: cut_module(module, deploy, steps),
        lambda cut: _emit(module, cut, plan, deploy, directory, options),
        folder,
        placed_by(steps, deploy),
        options.progress,
    )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    worth = keep or size < _COPIED * (time.perf_counter() - start)
    key = _kept_key(plan, deploy, cut.parts, options) if worth and not fallen else None
    if key is not None:
        keep_emission(key, folder, emission)
    return cut, emission, fallen


def _kept_key(plan: Plan, deploy: Deploy, parts: Sequence[Part], options: CompileOptions) -> str | None:
    """The key that the files of a deploy line are kept under; None: they are not, or its units are kept instead."""
    divided = parts_by_target(deploy, parts)
    apart = any(cls().units(own, deploy.options, plan.devices) for cls, own in divided.items())
    return None if options.emission_key is None or apart else options.emission_key(plan, deploy)


def _emit(
    module: Module, cut: PartGraph, plan: Plan, deploy: Deploy, directory: Path, options: CompileOptions
) -> Emission:
    """Emit the parts of each target, or take the files from the cache where they are kept; a plain graph's are proven
    together.
    """
    from .prove_chain import prove_chain

    emission = _emit_each(module, cut.parts, plan, deploy, directory, options)
    if module.arch is None and options.prove and not emission.proof:
        emission.proof = prove_chain(module, cut, emission, directory, deploy.target, options.progress)
    return emission


def _emit_each(
    module: Module, parts: list[Part], plan: Plan, deploy: Deploy, directory: Path, options: CompileOptions
) -> Emission:
    from ..emit.target import Emission
    from ..files.noted_digest import is_known
    from ..registry import find_target
    from .kept_emission import kept_emission

    (directory / deploy.model).mkdir(parents=True, exist_ok=True)
    files = plan.models[deploy.model].source.files
    new = any(path.is_file() and not is_known(path) for path in files)  # what is kept was hashed once
    key = None if new else _kept_key(plan, deploy, parts, options)
    if key is not None and options.ready is not None:
        options.ready(deploy.model, "files")
    if key is not None and (kept := kept_emission(key, directory / deploy.model)) is not None:
        options.progress(f"{deploy.model}: its files are in the cache")
        return kept
    whole = Emission(engine=find_target(deploy.target).engine, parts={})
    for cls, own in parts_by_target(deploy, parts).items():
        emitted = cls().emit(emit_job(cls, own, module, plan, deploy, directory, options))
        whole.parts.update(emitted.parts)
        whole.libraries += [row for row in emitted.libraries if row not in whole.libraries]
        whole.notes += emitted.notes
        whole.stored.update(emitted.stored)
        whole.sparse += emitted.sparse
        whole.layout |= emitted.layout
        whole.units += [{"target": cls.name, **facts} for facts in emitted.units]
        _lay_out_cache(whole, emitted)
        if cls.name == deploy.target:
            whole.engine = emitted.engine
    return whole


def emit_job(
    cls: type[Target],
    parts: list[Part],
    module: Module,
    plan: Plan,
    deploy: Deploy,
    directory: Path,
    options: CompileOptions,
) -> EmitJob:
    """What a target is handed of a deploy line."""
    from ..emit.target import EmitJob
    from .tokenizer_folders import tokenizer_folders

    lowered = [] if options.lowered is None else options.lowered(plan, deploy)
    return EmitJob(
        module=module,
        parts=parts,
        directory=directory,
        folder=deploy.model,
        device=plan.devices[0],
        devices=plan.devices,
        slower=cls.slower,
        jobs=options.jobs,
        keep=options.emission_key is not None,
        tokenizer_source=plan.models[deploy.model].source.tokenizer_folder,
        tokenizer_folder=tokenizer_folders(plan).get(deploy.model),
        options=deploy.options if cls.name == deploy.target else cls.Options(),
        beside=cls.name != deploy.target,
        origin=deploy.span,
        progress=options.progress,
        prove=options.prove,
        lowered=[facts for facts in lowered if facts["target"] == cls.name],
        ready=(lambda: None) if options.ready is None else functools.partial(options.ready, deploy.model, "files"),
    )


def _lay_out_cache(whole: Emission, emitted: Emission) -> None:
    """The model's K/V layout is that of the first target whose parts hold a cache; others say theirs part by part."""
    holders = [
        part
        for part in emitted.parts.values()
        if any(kv_names.is_cache(spec["name"]) for graph in part["graphs"].values() for spec in graph["inputs"])
    ]
    if holders or emitted.engine != "chain":  # an engine of whole models keeps its own cache
        whole.kv = whole.kv or emitted.kv
    for part in holders:
        if emitted.kv != whole.kv:
            part["kv"] = emitted.kv
