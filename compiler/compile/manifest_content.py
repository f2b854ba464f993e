"""The manifest's content from what was compiled. The schema is `manifest.schema.json`, its meaning `docs/bundle.md`."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.manifest import arch_entry
from ..emit.manifest_entries import tensor_entry
from ..emit.stored_weight import as_in_module
from ..estimate.speculation import PREPARED
from ..files import cache
from ..files.full_disk import writes
from ..ir.active_channels import cut
from ..ir.annotations import ACTIVE, Subject, texts
from ..ir.linears import Linear, linears
from ..ir.module import MAIN, BucketShape
from ..memory.memory_plan import memory_entry
from ..registry import find_target
from ..sources.tokenizer.text_config import read_sampling, read_text_config
from ..sources.tokenizer.tokenizer_file import opens_with
from .estimate_plan import estimate_compiled
from .pack_models import saved_bytes
from .sparsity_bought import sparsity_bought
from .tokenizer_folders import tokenizer_folders

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..diagnostics.diagnostic import Diagnostic
    from ..estimate.model_estimate import ModelEstimate
    from ..ir.module import Module
    from ..plan.devices import Device
    from ..plan.plan import Plan, Speculate
    from .compile_model import CompiledModel
    from .estimate_plan import Estimate
    from .requirements import Measured

TOOLS = ("edgec", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-qnn", "MNN", "numpy", "tokenizers")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)


def assemble(
    plan: Plan,
    models: Sequence[CompiledModel],
    measured: Measured,
    directory: Path,
    packed: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of the bundle below `directory`, whose files are all written but the manifest itself.

    `packed`: which files were packed, as the manifest says it.
    """
    tokenizers = _tokenizers(plan, models, directory)
    folders = {model: name for name, facts in tokenizers.items() for model in facts["models"]}
    parts: dict[str, Any] = {}
    for model in models:
        parts.update(model.emission.parts)
    needs = {model.name: _memory(model, plan.devices[0], directory, packed) for model in models}
    estimate = estimate_compiled(plan, models)
    return {
        "plan": _plan(plan),
        "devices": [_device(device) for device in plan.devices],
        "tools": _tool_versions(),
        "inputs": {model.name: _inputs(model) for model in models},
        "tokenizers": {name: {k: v for k, v in facts.items() if k != "models"} for name, facts in tokenizers.items()},
        "models": {
            model.name: _model(plan, model, folders.get(model.name), directory, estimate, measured) for model in models
        },
        "parts": parts,
        "speculation": _speculation(plan, models, estimate),
        "sampling": {model.name: _sampling(model) for model in models if model.compressed.arch is not None},
        "memory": needs,
        "estimate": _estimate(estimate),
        "measured": _measured(measured),
        "libraries": _libraries(models),
        "notes": [f"{model.name}: {note}" for model in models for note in model.notes()],
        "warnings": [_warning(one) for one in plan.warnings],
        **({} if packed is None else {"packed": packed}),
    }


def _warning(found: Diagnostic) -> dict[str, Any]:
    """A warning, without a path of this machine."""
    message = found.message.replace(f"{cache.cache_root()}/", "")
    row = {"code": found.code, "message": message, "help": found.way_out}
    return row | ({"accepted": found.accepted} if found.accepted else {})


def _device(device: Device) -> dict[str, Any]:
    return {key: getattr(device, key) for key in ("name", "marketing", "sm", "soc", "arch", "vtcm_mb")}


def _plan(plan: Plan) -> dict[str, Any]:
    import hashlib

    digest = hashlib.sha256("\0".join(plan.sources.values()).encode()).hexdigest()
    defines = {name: _json_value(value) for name, value in plan.defines.items()}
    return {"name": plan.name, "sha256": digest, "defines": defines, "overridden": list(plan.overridden)}


def _json_value(value: object) -> object:
    return value if isinstance(value, (int, float, str, bool)) else str(value)


def _tool_versions() -> dict[str, str]:
    found = {}
    for tool in TOOLS:
        try:
            found[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:  # QNN exists for Linux on x86-64 only
            continue
    return found


def _inputs(model: CompiledModel) -> dict[str, Any]:
    source, digests = model.decl.source, model.sources
    return {
        "kind": source.reader.word,
        "source": source.text,
        "files": {path.name: {"sha256": digests[path.name], "size": path.stat().st_size} for path in source.files},
    }


def _tokenizers(plan: Plan, models: Sequence[CompiledModel], directory: Path) -> dict[str, dict[str, Any]]:
    """Copy each distinct tokenizer once; which models use it is under `models`."""
    found: dict[str, dict[str, Any]] = {}
    folders = tokenizer_folders(plan)
    for model in models:
        name, source = folders.get(model.name), model.decl.source.tokenizer_folder
        if name is None or source is None:
            continue
        if name in found:
            found[name]["models"].append(model.name)
            continue
        (directory / name).mkdir(exist_ok=True)
        for file in TOKENIZER_FILES:
            if (source / file).is_file():
                with writes(directory / name / file):
                    shutil.copyfile(source / file, directory / name / file)
        found[name] = {**_tokenizer_facts(source, model.compressed.arch), "directory": name, "models": [model.name]}
    return found


def _tokenizer_facts(source: Path, arch: Any) -> dict[str, Any]:
    return {
        "bos": arch.bos,
        "eos": list(arch.eos),
        "add_bos": opens_with(source, arch.bos),
        "chat_template": read_text_config(source).template is not None,
    }


def _model(
    plan: Plan, model: CompiledModel, tokenizer: str | None, directory: Path, estimate: Estimate, measured: Measured
) -> dict[str, Any]:
    estimate_of = next(one for one in estimate.models if one.name == model.name)
    costs = _costs(estimate, model.name)
    arch, main = model.compressed.arch, model.compressed.main
    options = {key: _json_value(value) for key, value in vars(model.deploy.options).items()}
    entry: dict[str, Any] = {
        "role": _role(plan, model.name),
        "kind": "graph" if arch is None else "decoder",
        "deploy": {
            "device": model.deploy.device,
            "target": model.deploy.target,
            "pipeline": model.deploy.pipeline,
            "options": options,
        },
        "engine": model.emission.engine,
        "moved": any(step.pass_.moves_inside for step in plan.steps(model.deploy)),
        **_facts(texts(Subject.MODEL, main) | texts(Subject.GRAPH, main.graph)),
        "weights": _weights(model),
        "bytes": _folder_bytes(directory / model.name),
    }
    if model.emission.layout:
        entry["layout"] = model.emission.layout
    if model.emission.proof:
        entry["proof"] = model.emission.proof
    if active := _active(model, estimate_of, measured):
        entry["active"] = active
    if bought := sparsity_bought(model):
        entry["sparse"] = bought
    if model.emission.engine == "chain":
        entry["buckets"] = [{**row, **_cost(costs, row["name"])} for row in _buckets(model)]
    if arch is None:
        entry |= _signature(main)
    else:
        # a pass may have untied what the checkpoint tied
        entry["arch"] = {**arch_entry(arch, model.decl.context), "tied": arch.tied and _tied(model.compressed)}
        entry["tokenizer"] = tokenizer
        entry["kv"] = model.emission.kv or None
    return entry


def _signature(main: ir.Model) -> dict[str, Any]:
    """What the ONNX graph takes and gives, in its own types and order."""
    sides = {"inputs": main.graph.inputs, "outputs": main.graph.outputs}
    return {side: [tensor_entry(value) for value in values] for side, values in sides.items()}


def _active(model: CompiledModel, estimate: ModelEstimate, measured: Measured) -> dict[str, Any] | None:
    """What the cut inputs of linears save a runtime that reads no other weights, and what they cost."""
    found = cut(linears(model.compressed))
    if not found:
        return None
    return {
        "linears": {linear.name: {"kept": ACTIVE.get(linear.node), "of": linear.shape[1]} for linear in found},
        "bytes_per_token": round(estimate.work.bytes_per_token()),
        "active_bytes_per_token": round(estimate.work.active_bytes_per_token()),
        "perplexity": measured.module.get(model.name),
        "whole": measured.whole.get(model.name),
    }


def _cost(costs: Mapping[str, float], bucket: str) -> dict[str, float]:
    return {"cost": costs[bucket]} if bucket in costs else {}


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_offsets(models: Sequence[CompiledModel], directory: Path) -> None:
    """Write `memory_plan.json`: where each value lies in its part's arena, for a runtime that allocates them itself."""
    offsets = {model.name: model.memory.offsets() for model in models}
    path = directory / "memory_plan.json"
    with writes(path):
        path.write_text(json.dumps(offsets, separators=(",", ":"), sort_keys=True) + "\n", encoding="utf-8")


def _of_other_chips(model: CompiledModel, directory: Path) -> int:
    """Bytes of files that only other chips than the first read: no device holds them."""
    forms = [part.get("chips", {}) for part in model.emission.parts.values()]
    first = {file for chips in forms for own in [*chips.values()][:1] for file in _files(own)}
    others = {file for chips in forms for own in [*chips.values()][1:] for file in _files(own)} - first
    return sum((directory / file).stat().st_size for file in others)


def _files(own: dict[str, Any]) -> set[str]:
    beside = own["details"].get("mnn_wrapper")
    return {own["file"], *(graph["file"] for graph in own["graphs"].values()), *([beside] if beside else [])}


def _memory(model: CompiledModel, device: Device, directory: Path, packed: dict[str, Any] | None) -> dict[str, Any]:
    """Bytes of the weights as an engine reads them, of each bucket's K/V cache, of its parts' arenas, and of all."""
    saved = sum(
        entry["size"] - (directory / entry["file"]).stat().st_size
        for name, entry in (packed or {"files": {}})["files"].items()
        if name.startswith(f"{model.name}/")
    )
    kv = model.emission.kv
    width = {"float32": 4, "float16": 2, "uint8": 1}.get(kv.get("dtype", ""))
    if width is None:  # the engine keeps the cache
        width = find_target(model.deploy.target)().cache_width(device)
    if "row_bytes" in kv and model.compressed.arch is not None:
        width = kv["row_bytes"] / model.compressed.arch.head_dim
    shapes = [(row["name"], row["tokens"], row["context"]) for row in _buckets(model)] or [(MAIN, None, None)]
    weights = _folder_bytes(directory / model.name) - _of_other_chips(model, directory) + saved
    return memory_entry(model.memory, weights, model.compressed.arch, model.decl.context, shapes, width)


def _estimate(made: Estimate) -> dict[str, Any]:
    """Rates on the device, of the parts as they were made."""
    rates = {"decode_rate": made.decode, "prefill_rate": made.prefill}
    return {"device": made.device, **rates, "histogram": made.histogram.name}


def _costs(made: Estimate, model: str) -> dict[str, float]:
    """Bucket -> microseconds of a call on the device; none for a device without published figures."""
    calls = next(one.calls for one in made.models if one.name == model)
    return {f"t{call.tokens}_c{call.context}": round(1e6 * call.seconds, 3) for call in calls}


def _role(plan: Plan, name: str) -> str:
    for line in plan.speculates:
        if name in (line.draft, line.target):
            return "draft" if name == line.draft else "target"
    return "model"


def _buckets(model: CompiledModel) -> list[dict[str, Any]]:
    if model.emission.engine != "chain":
        return []
    schedule = model.cut.schedule()
    rows = []
    for key in model.final.graphs:
        bucket = BucketShape.of(key)
        rows.append(
            {
                "name": key,
                "tokens": bucket.tokens if bucket else None,
                "context": bucket.context if bucket else None,
                "parts": list(schedule.parts),
                "schedule": schedule.entry(),
            }
        )
    return rows


def _weights(model: CompiledModel) -> list[dict[str, Any]]:
    rows, packed = [], saved_bytes(model)
    for linear in linears(model.compressed):
        quant = linear.quant
        held = linear.stored if quant is None else quant.q
        rows.append(
            {
                "name": linear.name,
                "shape": list(linear.shape),
                **_format(model, linear, packed.get(linear.name)),
                **_facts({} if held is None else texts(Subject.TENSOR, held)),
                "source_line": model.compressed.decisions.get(linear.name),
            }
        )
    return rows


def _tied(module: Module) -> bool:
    held = {linear.name: linear.initializer for linear in linears(module)}
    return held.get("lm_head") is held.get("embed_tokens")


def _facts(found: dict[str, str]) -> dict[str, dict[str, str]]:
    return {"facts": found} if found else {}


def _format(model: CompiledModel, linear: Linear, packed: int | None) -> dict[str, Any]:
    """The format of a weight as the emitter has stored it; `packed`: the bytes that packing has saved of it."""
    stored, quant = model.emission.stored.get(linear.name) or as_in_module(linear), linear.quant
    if quant is None:
        floats = {"dtype": stored.dtype, "bits": None, "block": None, "symmetric": None, "scales": None}
        return {**floats, "bytes": stored.bytes}
    entry = {**quant.format.stored_in(stored.bits or quant.bits).entry(), "bytes": stored.bytes}
    return entry if packed is None else {**entry, "packed": stored.bytes - packed}


def _speculation(plan: Plan, models: Sequence[CompiledModel], estimate: Estimate) -> dict[str, Any] | None:
    if not plan.speculates:
        return None
    line = plan.speculates[0]
    entry: dict[str, Any] = {"draft": line.draft, "target": line.target, "k": line.k, "accept": line.accept}
    if line.source != "draft":
        entry["source"] = line.source
    if line.tree:
        entry["tree"] = line.tree
    if line.overlap:
        lanes = {model.name: model.deploy.device for model in models}
        batched = find_target(next(m for m in models if m.name == line.draft).deploy.target).engine == "chain"
        beside = None if estimate.pair is None else estimate.pair.overlap
        outcomes = beside.outcomes if batched and beside is not None else PREPARED
        entry["overlap"] = {"outcomes": outcomes, "lanes": {name: lanes[name] for name in (line.draft, line.target)}}
    return entry | {"schedule": _round(line, models, estimate)}


def _round(line: Speculate, models: Sequence[CompiledModel], estimate: Estimate) -> dict[str, Any]:
    """A round as a runtime runs it: calls of the draft, slots of the target's; times where the device is known."""
    target = next(model for model in models if model.name == line.target)
    slots = [row["tokens"] for row in _buckets(target) if row["tokens"] is not None and row["tokens"] >= line.tokens]
    entry: dict[str, Any] = {"calls": line.k, "tokens": line.tokens, "slots": min(slots, default=None)}
    pair = estimate.pair
    if pair is None:
        return entry
    micro = {"draft": pair.k * pair.cost * pair.verify, "verify": pair.verify}
    if pair.overlap is None:
        micro["round"] = sum(micro.values())
    else:
        micro |= {"found": pair.overlap.found, "missed": pair.overlap.missed, "round": pair.overlap.round}
        entry["ready"] = round(pair.overlap.ready, 4)
    return entry | {"microseconds": {name: round(1e6 * value, 3) for name, value in micro.items()}}


def _sampling(model: CompiledModel) -> dict[str, Any]:
    folder = model.decl.source.tokenizer_folder
    return {} if folder is None else dict(read_sampling(folder).values)


def _measured(measured: Measured) -> dict[str, Any]:
    return {
        "perplexity": measured.perplexity,
        "baseline": measured.baseline,
        "module": measured.module,
        "judged": {name: judged.entry() for name, judged in measured.judged.items()},
        "requires": measured.requires,
    }


def _libraries(models: Sequence[CompiledModel]) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for model in models:
        rows += [row for row in model.emission.libraries if row not in rows]
    return rows
