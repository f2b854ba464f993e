"""Whether a dry run of the same plan over the same files held before: then `check` need not do it again.

    key = hash(plan's texts, lets, model headers, sizes and times of other files, edgec's own files, plug-ins)

Only a dry run without a refusal is remembered, with what is left to be run (`prove.py`). The key needs no array library
and a few milliseconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ..emit.conformance.local_table import stamp
from ..files import cache
from ..registry import find_target

if TYPE_CHECKING:
    from ..plan.plan import ModelSource, Plan

_KIND = "dry-run"
_HEADER = 8  # bytes before the JSON header of a safetensors file: its length
_WHOLE = 1 << 20  # bytes up to which a file is hashed; of a larger one the size and the time of its last change count


Told = list[tuple[int, str]]  # (number of a deploy line, text)


def held_before(key: str) -> tuple[Told, Told] | None:
    """What the dry run with this key left: to be run for no table holds it, and to an engine's own lowering.

    None: there was no such run, or it had something to refuse.
    """
    text = cache.read_note(_KIND, key)
    try:
        noted = json.loads(text) if text else None
    except ValueError:
        return None
    if not isinstance(noted, list) or [type(one) for one in noted] != [list, list]:
        return None
    left, lowered = ([(one[0], one[1]) for one in part if _is_told(one)] for part in noted)
    return (left, lowered) if len(left) + len(lowered) == len(noted[0]) + len(noted[1]) else None


def _is_told(one: object) -> bool:
    return isinstance(one, list) and [type(x) for x in one] == [int, str]


def remember(key: str, left: Sequence[tuple[int, str]] = (), lowered: Sequence[tuple[int, str]] = ()) -> None:
    """Note that the dry run with this key refused nothing; a cache that cannot be written forgets it."""
    with contextlib.suppress(OSError):
        cache.write_note(_KIND, key, json.dumps([list(left), list(lowered)]))


def key_of(plan: Plan) -> str:
    """What tells one dry run from another."""
    digest = hashlib.sha256()
    for part in _parts(plan):
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def _parts(plan: Plan) -> Iterator[str]:
    yield from (f"{name}={text}" for name, text in plan.sources.items())
    yield repr(sorted(plan.defines.items()))
    yield repr([(line.k, line.draft, line.target) for line in plan.speculates])
    yield repr([[step.demands.buckets for step in plan.steps(deploy)] for deploy in plan.deploys])
    for model in plan.models.values():
        yield from model_parts(model.source)
    texts = (*(plan.calibration.text if plan.calibration else ()), *(plan.evaluation.text if plan.evaluation else ()))
    yield from map(_file, texts)
    yield from map(_file, _code(plan))
    yield from _own_files()
    yield stamp()
    yield from (f"{name} {_version(name)}" for name in ("onnx", "onnx-ir", "onnxruntime-qnn", "MNN"))


def model_parts(source: ModelSource) -> Iterator[str]:
    """What tells the files of a model from others: headers of checkpoints, digests or sizes and times of the rest."""
    for path in source.files:
        yield f"{path} {_header(path)}" if path.suffix == ".safetensors" else _file(path)


def _header(path: Path) -> str:
    """Size and header of a safetensors file: shapes, types and places of its tensors."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_HEADER), "little")
            return f"{path.stat().st_size} {hashlib.sha256(file.read(min(length, 100 << 20))).hexdigest()}"
    except OSError:
        return "unreadable"


def _file(path: Path) -> str:
    try:
        stat = path.stat()
        if stat.st_size <= _WHOLE:
            return f"{path} {cache.digest_file(path)}"
        return f"{path} {stat.st_size} {stat.st_mtime_ns}"
    except OSError:
        return f"{path} unreadable"


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{path} {stat.st_size} {stat.st_mtime_ns}"


def _code(plan: Plan) -> Iterable[Path]:
    """Files of the passes and targets that are not edgec's own."""
    classes = [type(step.pass_) for pipeline in plan.pipelines.values() for step in pipeline.steps]
    classes += [find_target(deploy.target) for deploy in plan.deploys]
    modules = {cls.__module__ for cls in classes if not cls.__module__.startswith("edgec.")}
    files = [getattr(sys.modules.get(name), "__file__", None) for name in sorted(modules)]
    return [Path(file) for file in files if file]


def _own_files() -> Iterator[str]:
    """Edgec's code and tables, by size and time: a checkout changes without its version."""
    for layer in ("compiler", "dsl", "passes", "targets"):
        spec = importlib.util.find_spec(f"edgec.{layer}")
        for root in (spec.submodule_search_locations or ()) if spec else ():
            for folder, _, names in sorted(os.walk(root)):
                yield from (_stamp(Path(folder, n)) for n in sorted(names) if n.endswith((".py", ".json", ".toml")))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
