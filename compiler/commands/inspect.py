"""`edgec inspect`: describe a plan, a model (folder or .onnx), a bundle, or a file that a target wrote."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..bundle.manifest import MANIFEST
from ..diagnostics.diagnostic import fail
from .streams import print_json, print_line
from .taken_table import table
from .terminal import meanwhile

PLANS = (".edge", ".plan")


def run_inspect(arguments: argparse.Namespace) -> int:
    """Print what `arguments.file` is and holds."""
    facts = describe(arguments.file, arguments.device)
    if arguments.json:
        print_json({**facts, **meanwhile()})
        return 0
    taken = facts.pop("targets", None)
    for line in (*_lines(facts), *(table(taken) if taken else ())):
        print_line(line)
    return 0


def describe(path: Path, device: str | None = None) -> dict[str, Any]:
    """The facts of a file or folder, as plain JSON values; `kind` says what it is.

    `device`: whose files of a bundle for several chips.
    """
    if not path.exists():
        fail("E0954", f"`{path}` does not exist")
    if not (path.is_dir() or path.is_file()):
        fail("E0954", f"`{path}` is a named pipe or a device, not a file", help="save what it gives as a file")
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return _bundle(path, device)
    elif path.suffix in PLANS:
        return _plan(path)
    from ..registry import sources, targets

    kinds = sources() if path.is_dir() else {**targets(), **sources()}  # a target knows its own .onnx files better
    for kind in kinds.values():
        facts = kind().inspect(path)
        if facts is not None:
            return {**facts, **_targets(path, device)} if facts["kind"] == "onnx" else facts
    if path.is_dir():
        fail("E0954", f"`{path}` is neither a bundle nor a model's folder", help="a model's folder has a config.json")
    known = "known: .edge, .plan, .onnx, .mnn and .bin files, model folders, bundles"
    fail("E0954", f"`{path}` is not a kind of file that edgec can describe", help=known)


def _targets(path: Path, device: str | None) -> dict[str, Any]:
    """What each target would take of the graph in an ONNX file."""
    from ..compile.taken_ops import taken_ops
    from ..registry import find_source

    return {
        "targets": {
            one.target: one.facts() for one in taken_ops(find_source("onnx")().load(path.stem, path, 0), device)
        }
    }


def _bundle(path: Path, device: str | None) -> dict[str, Any]:
    from ..bundle.manifest import load_manifest
    from ..runtime.on_device import for_device
    from ..runtime.signature import described

    manifest = for_device(load_manifest(path), device)
    data = manifest.data
    return {
        "kind": "bundle",
        "plan": data["plan"]["name"],
        "devices": [device["name"] for device in data["devices"]],
        "bytes": sum(facts["size"] for facts in data["files"].values()),
        "models": {
            name: {
                "role": model["role"],
                "engine": model["engine"],
                "bytes": model.get("bytes"),
                "facts": model.get("facts", {}),
                **{
                    side: {s["name"]: described(s) for s in model[side]}
                    for side in ("inputs", "outputs")
                    if side in model
                },
                "buckets": [bucket["name"] for bucket in model.get("buckets", [])],
                **_schedule(model.get("buckets", [])),
                **({"sparse": model["sparse"]} if "sparse" in model else {}),
                "formats": _count(_format(row) for row in model["weights"]),
            }
            for name, model in data["models"].items()
        },
        "parts": {
            name: {key: part[key] for key in ("device", "target", "file")}
            | {"graphs": list(part["graphs"])}
            | _options(part.get("details", {}))
            for name, part in data["parts"].items()
        },
        "speculation": data["speculation"],
        "measured": data.get("measured"),
        "files": {name: facts["size"] for name, facts in data["files"].items()},
    }


def _options(details: dict[str, Any]) -> dict[str, Any]:
    """The engine's options as they were asked for, and as the finished file has them."""
    rows = details.get("options", [])
    return (
        {"options": {row["option"]: f"asked {row['asked']}, in the binary {row['found']}" for row in rows}}
        if rows
        else {}
    )


def _schedule(buckets: list[dict[str, Any]]) -> dict[str, Any]:
    """The lanes, and the pairs of parts that may run at once; the same in every bucket."""
    from ..bundle.schedule import Schedule

    if not buckets:
        return {}
    schedule = Schedule.of_bucket(buckets[0])
    return {"lanes": {name: list(lane) for name, lane in schedule.lanes.items()}, "overlaps": schedule.overlaps()}


def _format(row: dict[str, Any]) -> str:
    from ..ir.weight_format import WeightFormat

    made = WeightFormat.of_entry(row)
    facts = [f"{key.removeprefix('edgec.')} {text}" for key, text in row.get("facts", {}).items()]
    return ", ".join([row["dtype"] if made is None else made.describe(), *facts])


def _count(values: Any) -> dict[str, int]:
    counted: dict[str, int] = {}
    for value in values:
        counted[value] = counted.get(value, 0) + 1
    return counted


def _plan(path: Path) -> dict[str, Any]:
    from ..driver import load_plan

    plan = load_plan(path)
    return {
        "kind": "plan",
        "name": plan.name,
        "devices": [device.name for device in plan.devices],
        "models": {name: {"source": m.source.text, "context": m.context} for name, m in plan.models.items()},
        "pipelines": {name: [_step(step) for step in p.steps] for name, p in plan.pipelines.items()},
        "deploys": [{"model": d.model, "on": d.device, "through": d.pipeline, "as": d.target} for d in plan.deploys],
        "speculation": [{"draft": s.draft, "target": s.target, "k": s.k} for s in plan.speculates],
        "requires": [line.text for line in plan.requires],
    }


def _step(step: Any) -> str:
    from ..plan.parameters import parameters

    """The call as a plan writes it, without the parameters that stand at their default."""
    given = [(p, getattr(step.pass_, p.name)) for p in parameters(type(step.pass_))]
    values = ", ".join(f"{p.name} = {p.written(value)}" for p, value in given if value != p.default)
    selected = f" on {json.dumps(step.on)}" if step.on else ""
    excepted = f" except {json.dumps(step.except_)}" if step.except_ else ""
    return f"{step.pass_name} ({values}){selected}{excepted}"


def _lines(value: Any, depth: int = 0) -> list[str]:
    """An indented outline of nested facts; lists of plain values stay on one line while they are short."""
    pad = "  " * depth
    out: list[str] = []
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        label = f"{pad}{key}: " if isinstance(value, dict) else f"{pad}- "
        if (isinstance(item, dict) and item) or (isinstance(item, list) and not _plain(item)):
            out += [label.rstrip(), *_lines(item, depth + 1)]
        else:
            out.append(label + _short(item))
    return out


def _plain(items: list[Any]) -> bool:
    return all(not isinstance(item, (dict, list)) for item in items) and len(items) <= 12


def _short(item: Any) -> str:
    return ", ".join(map(str, item)) if isinstance(item, list) else str(item)
