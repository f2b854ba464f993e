"""What a model's folder says about its texts beside tokenizer.json: special tokens, chat template, sampling.

    tokenizer_config.json, special_tokens_map.json   special tokens by name, the chat template
    chat_template.jinja                              the chat template; goes before the one in the config
    generation_config.json                           how to sample, what ends a text

Read as `transformers` reads them. Whatever they can hold is a value or an error that names file and key, so that
`edgec check` can decide it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ...diagnostics.diagnostic import fail
from ...files.plain_file import read_plain
from ..hf.config_file import read_json

CONFIG, MAP, TEMPLATE, GENERATION = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
_AGAIN = "save the tokenizer again with transformers, or copy the model's folder again"
# settings of generation_config.json that change the text and that edgec's runner does not have: (key, what is off)
_LEFT_OUT: dict[str, tuple[object, ...]] = {
    "repetition_penalty": (1, 1.0, None),
    "min_p": (0, 0.0, None),
    "typical_p": (1, 1.0, None),
    "epsilon_cutoff": (0, 0.0, None),
    "eta_cutoff": (0, 0.0, None),
    "top_h": (None,),
    "no_repeat_ngram_size": (0, None),
    "encoder_repetition_penalty": (1, 1.0, None),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "bad_words_ids": (None, []),
    "sequence_bias": (None, {}, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "num_beams": (1, None),
    "penalty_alpha": (0, 0.0, None),
    "guidance_scale": (1, 1.0, None),
    "exponential_decay_length_penalty": (None,),
    "min_length": (0, None),
    "min_new_tokens": (0, None),
}


@dataclass(frozen=True)
class TextConfig:
    """`special`: every special token by its name (`bos_token`); `template`: the chat template, None without one."""

    special: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None


@dataclass(frozen=True)
class Sampling:
    """The model's own sampling: `values` that edgec applies, `left_out` settings that it does not."""

    values: Mapping[str, float | int | bool] = field(default_factory=dict)
    left_out: Mapping[str, Any] = field(default_factory=dict)


def read_text_config(folder: Path) -> TextConfig:
    """Special tokens and chat template of a model's folder; absent files say nothing."""
    path = folder / CONFIG
    config = read_json(path) if path.exists() else {}
    special: dict[str, str] = {}
    if (folder / MAP).exists() and "added_tokens_decoder" not in config:  # as in transformers
        special |= _tokens(read_json(folder / MAP), folder / MAP)
    special |= _tokens(config, path)
    return TextConfig(special, _template(folder, config))


def _tokens(config: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Every `…_token` of a config, and those that `extra_special_tokens` names."""
    found = {}
    named = dict(config)
    for key in ("extra_special_tokens", "model_specific_special_tokens"):
        if isinstance(config.get(key), dict):
            named |= config[key]
    for key, value in named.items():
        if not key.endswith("_token") or value is None or isinstance(value, bool):
            continue  # `add_bos_token` is no token
        text = value.get("content") if isinstance(value, dict) else value
        if not isinstance(text, str):
            _wrong(path, key, 'a token, or an object with its "content"')
        found[key] = text
    return found


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    own = folder / TEMPLATE
    if own.exists():
        try:
            return read_plain(own).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = str(error.strerror).lower() if isinstance(error, OSError) else "it is not UTF-8 text"
            fail("E0330", f"cannot read `{own}`: {reason}")
    found = config.get("chat_template")
    if isinstance(found, list):  # several, by name
        rows = {row.get("name"): row.get("template") for row in found if isinstance(row, dict)}
        if len(rows) < len(found):
            _wrong(folder / CONFIG, "chat_template", "a template, or a list of objects with `name` and `template`")
        found = rows.get("default")
    elif isinstance(found, dict):
        found = found.get("default")
    if found is not None and not isinstance(found, str):
        _wrong(folder / CONFIG, "chat_template", "a template, or a list of objects with `name` and `template`")
    return found or None


def read_sampling(folder: Path) -> Sampling:
    """The sampling defaults of `folder`, checked; `-1` and null mean off, as they do where such files come from."""
    path = folder / GENERATION
    config = read_json(path) if path.exists() else {}
    values: dict[str, float | int | bool] = {}
    if (flag := config.get("do_sample")) is not None:
        if not isinstance(flag, bool):
            _wrong(path, "do_sample", "true or false")
        values["do_sample"] = flag
    if (temperature := _number(config, "temperature", path)) is not None:
        if temperature < 0:
            _wrong(path, "temperature", "a number, 0 or above")
        values["temperature"] = temperature
    if (share := _number(config, "top_p", path)) is not None:
        if not 0 <= share <= 1:
            _wrong(path, "top_p", "a number from 0 to 1")
        values |= {"top_p": share} if share else {"top_k": 1}  # of no probability only the likeliest token is left
    if (count := config.get("top_k")) is not None and "top_k" not in values:
        if isinstance(count, bool) or not isinstance(count, int) or not -1 <= count < 1 << 31:
            _wrong(path, "top_k", "a number of tokens; 0 or -1 keeps all")
        values["top_k"] = max(count, 0)
    left_out = {key: config[key] for key, off in _LEFT_OUT.items() if key in config and config[key] not in off}
    return Sampling(values, left_out)


def _number(config: Mapping[str, Any], key: str, path: Path) -> float | None:
    value = config.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        _wrong(path, key, "a finite number")
    return float(value)


def _wrong(path: Path, key: str, wanted: str) -> NoReturn:
    fail("E0336", f"`{key}` in `{path}` has to be {wanted}", help=_AGAIN if path.name != GENERATION else None)
