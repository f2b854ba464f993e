"""What the actions of a plan hang on, as digests by word: no path and no time of this machine is among them.

model        every file of the source, by content, and what the plan says of it
steps        the pipeline's lines with every value as it is used, the files that they name by content
calibration  the plan's texts, by content, and how windows are cut from them
target       the deploy line: engine, device, options, type of the K/V cache
devices      the chips
code         edgec's own files, and those of plug-ins that the plan uses
tools        the versions of the engines and libraries
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.code_digest import code_digest
from ..files.noted_digest import noted_digest
from ..pipeline.measured_steps import split_steps
from ..registry import find_target

if TYPE_CHECKING:
    from ..pipeline.step import Step
    from ..plan.plan import Deploy, ModelDecl, Plan

_TOOLS = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-qnn", "MNN", "torch", "tokenizers")
_LAYERS = ("compiler", "dsl", "passes", "targets")
_CODE = (".py", ".json", ".toml", ".c", ".h")


def digest(*parts: object) -> str:
    """sha256 of texts, each with its length."""
    made = hashlib.sha256()
    for part in map(str, parts):
        made.update(f"{len(part)}:{part}".encode("utf-8", "surrogateescape"))
    return made.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file, from the cache where the same file was hashed before; a word for what cannot be read."""
    try:
        return noted_digest(path)
    except OSError:
        return "unreadable"


def solve_facts(plan: Plan, deploy: Deploy) -> dict[str, str]:
    """Of the steps on weights: nothing of a chip, of buckets or of how the model is written."""
    steps, _ = split_steps(plan.steps(deploy))
    calibrated = any(step.demands.calibration for step in steps)
    return {
        "model": model_fact(plan.models[deploy.model]),
        "steps": steps_fact(steps, plan.path.parent),
        "calibration": calibration_fact(plan) if calibrated else digest(),
        "widths": digest(deploy.target, deploy.device),
        "code": code_fact(steps, deploy),
        "tools": tools_fact(),
    }


def deploy_facts(plan: Plan, deploy: Deploy) -> dict[str, str]:
    """Of everything that the files of a deploy line hang on."""
    steps = plan.steps(deploy)
    options = sorted((name, _value(value, plan.path.parent)) for name, value in vars(deploy.options).items())
    return {
        "model": model_fact(plan.models[deploy.model]),
        "steps": steps_fact(steps, plan.path.parent),
        "calibration": calibration_fact(plan),
        "target": digest(deploy.target, deploy.device, options, deploy.kv),
        "devices": devices_fact(plan, deploy),
        "code": code_fact(steps, deploy),
        "tools": tools_fact(),
    }


def plan_facts(plan: Plan) -> dict[str, str]:
    """Of everything that a whole bundle hangs on."""
    own = [sorted(deploy_facts(plan, deploy).items()) for deploy in plan.deploys]
    texts = () if plan.evaluation is None else plan.evaluation.text
    named = [(Path(name).name, text) for name, text in plan.sources.items()]
    return {
        "deploys": digest(own),
        "plan": digest(plan.name, named, sorted((name, str(value)) for name, value in plan.defines.items())),
        "evaluation": digest(*map(file_digest, texts)),
        "devices": digest(plan.devices),
        "speculation": digest([(line.k, line.draft, line.target, line.accept) for line in plan.speculates]),
    }


def devices_fact(plan: Plan, deploy: Deploy) -> str:
    """The chips; of a model that the CPU runs and no step of which reads their figures, only whether it is this one."""
    here = platform.machine() if any(device.is_host for device in plan.devices) else ""
    lookup = any(step.demands.table_lookup or step.demands.hides for step in plan.steps(deploy))
    if deploy.device == "cpu" and not lookup and find_target(deploy.target).__module__.startswith("edgec."):
        return digest("cpu", here)
    return digest(plan.devices, here)


def model_fact(model: ModelDecl) -> str:
    """The files by name and content, wherever they lie."""
    more, said = model.source.reader.hangs_on(model.source.path)
    files = [(path.name, file_digest(path)) for path in (*model.source.files, *more)]
    folder = model.source.tokenizer_folder
    texts = sorted(folder.glob("tokenizer*")) if folder is not None else []
    files += [(path.name, file_digest(path)) for path in texts if path.is_file()]
    return digest(model.name, model.source.reader.word, said, model.context, sorted(set(files)))


def steps_fact(steps: Iterable[Step], folder: Path) -> str:
    """Every line with the values it runs with; paths are relative to `folder`."""
    rows = []
    for step in steps:
        values = sorted((name, _value(value, folder)) for name, value in vars(step.pass_).items())
        rows.append([step.pass_name, values, step.on, step.except_])
    return digest(rows)


def calibration_fact(plan: Plan) -> str:
    """The texts by content, and the windows."""
    held = plan.calibration
    if held is None:
        return digest()
    return digest([file_digest(path) for path in held.text], held.samples, held.length, held.seed)


@functools.cache
def tools_fact() -> str:
    """Versions of what computes and compiles."""
    return digest([(name, _version(name)) for name in _TOOLS], platform.machine(), platform.system())


def code_fact(steps: Sequence[Step], deploy: Deploy) -> str:
    """Edgec's own files, and those of plug-ins."""
    classes = [*(type(step.pass_) for step in steps), find_target(deploy.target)]
    foreign = sorted({one.__module__ for one in classes if not one.__module__.startswith("edgec.")})
    files = [getattr(sys.modules.get(name), "__file__", None) for name in foreign]
    return digest(own_code(), [file_digest(Path(file)) for file in files if file])


def own_code() -> str:
    """Edgec's own files by content."""
    return code_digest(*(f"edgec.{layer}" for layer in _LAYERS), endings=_CODE)


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The words whose digests differ."""
    return [word for word in sorted({*before, *now}) if before.get(word) != now.get(word)]


def _value(value: object, folder: Path) -> str:
    """A parameter in words; one that names a file, by the file's content."""
    if isinstance(value, Path):
        return file_digest(folder / value)
    if isinstance(value, str):
        with contextlib.suppress(OSError, ValueError):
            if value and (folder / value).is_file():
                return file_digest(folder / value)
    if isinstance(value, Mapping):
        return repr(sorted((str(name), _value(one, folder)) for name, one in value.items()))
    if isinstance(value, (frozenset, set)):
        return repr(sorted(map(str, value)))
    return repr(value)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
