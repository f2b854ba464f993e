"""The configs of an MNN-LLM bundle as the engine gets them: what edgec writes and nothing else.

MNN reads far more keys than we write, among them `tmp_path` (where it writes), `base_dir` and file names with `../`. A
bundle comes from anywhere, so the engine never sees its configs: they are read here, every key has to be one of these
tables with a value of its kind. What passes is written anew, beside links to the files that the manifest vouches for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ....compiler.diagnostics.diagnostic import fail

RUN, MODEL = "config.json", "llm_config.json"
_MOST = 8 << 20  # bytes of a config; a chat template can be long
_Check = Callable[[Any], bool]


def _file(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", value))


def _word(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z0-9_]{1,64}", value))


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1 << 40


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e12 < value < 1e12


def _counts(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 4096 and all(map(_count, value))


def _one_of(*words: str) -> _Check:
    return lambda value: value in words


def _table(checks: Mapping[str, _Check]) -> _Check:
    def check(value: Any) -> bool:
        return isinstance(value, dict) and all(key in checks and checks[key](one) for key, one in value.items())

    return check


RUN_KEYS: dict[str, _Check] = {
    "llm_model": _file,
    "llm_weight": _file,
    "tokenizer_file": _file,
    "embedding_file": _file,
    "backend_type": _one_of("cpu"),
    "thread_num": _count,
    "precision": _one_of("low", "normal", "high"),
    "memory": _one_of("low", "normal", "high"),
    "max_all_tokens": _count,
    "sampler_type": _one_of("greedy"),
}
MODEL_KEYS: dict[str, _Check] = {
    "model_type": _word,
    "hidden_size": _count,
    "layer_nums": _count,
    "max_position_embeddings": _count,
    "key_value_shape": _counts,
    "attention_mask": _word,
    "attention_type": _word,
    "is_mrope": lambda value: value is False,
    "tie_embeddings": _table(
        {
            "weight_offset": _count,
            "alpha_offset": _count,
            "alpha_size": _count,
            "quant_bit": _count,
            "quant_block": _count,
            "alpha_dtype": _word,
        }
    ),
    "jinja": lambda value: isinstance(value, dict),  # for MNN's own chat on the phone; left out here
}


def read_config(path: Path, keys: Mapping[str, _Check]) -> dict[str, Any]:
    """The config at `path`, E0713 where it holds something edgec does not write."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MOST))
    except (OSError, ValueError, RecursionError) as error:
        _refuse(path, f"it cannot be read: {error}")
    if not isinstance(found, dict):
        _refuse(path, "it is no JSON object")
    for key, value in found.items():
        if key not in keys:
            _refuse(path, f"it has the key `{key}`")
        if not keys[key](value):
            _refuse(path, f"`{key}` cannot be {json.dumps(value)[:80]}")
    return found


def _refuse(path: Path, why: str) -> NoReturn:
    message = f"`{path.name}` of the bundle is not as edgec writes it: {why}"
    fail("E0713", message, help="compile the plan again; edgec runs only the settings it writes")


def write_private_copy(folder: Path, names: Collection[str], into: Path, most_threads: int | None = None) -> None:
    """Fill `into` with the configs of `folder`, written anew, and links to those of its files that are `names`.

    `most_threads`: the copy asks for no more of them.
    """
    run, model = read_config(folder / RUN, RUN_KEYS), read_config(folder / MODEL, MODEL_KEYS)
    model.pop("jinja", None)
    if most_threads is not None:
        run["thread_num"] = min(run.get("thread_num", most_threads), most_threads)
    for key, value in run.items():
        if RUN_KEYS[key] is _file and value not in names:
            _refuse(folder / RUN, f"`{key}` names `{value}`, which the manifest does not list")
    for name in names:
        if name not in (RUN, MODEL):
            (into / name).symlink_to((folder / name).resolve())
    for name, config in ((RUN, run), (MODEL, model)):
        (into / name).write_text(json.dumps(config), encoding="utf-8")
