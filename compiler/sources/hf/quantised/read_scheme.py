"""What a config says about integers: `quantization_config` in config.json, or the file older tools wrote beside it.

    config.json: quantization_config     transformers, gptqmodel, llm-compressor     (compression_config: older)
    quantize_config.json                 AutoGPTQ
    quant_config.json                    AutoAWQ

What edgec reads no integers of (8-bit floats, bitsandbytes, other packings) is E0335 by its name.
"""

from __future__ import annotations

import re
from pathlib import Path

from ....diagnostics.diagnostic import fail
from ..config_file import Config, read_json
from .compressed_tensors import compressed_tensors
from .refusals import pattern, refuse
from .scheme import Quantised, Scheme

BESIDE = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
_KEYS = ("quantization_config", "compression_config")
_LESS_ONE = {"gptq": True, "gptq_v2": False}  # format -> whether zero points are stored minus one
_GPTQ_BITS, _AWQ_BITS = (2, 3, 4, 8), (4,)
_LARGEST_GROUP = 1 << 20


def read_quantised(folder: Path, config: Config) -> Quantised | None:
    """How the checkpoint in `folder` is quantised; None for floats. `config` is its config.json."""
    for key in _KEYS:
        if (section := config.section(key)) is not None and section.values:
            return _read(section, section.text("quant_method", "unknown"), f"`{key}` in `{config.path}`")
    for name, method in BESIDE.items():
        if (path := folder / name).is_file():
            section = Config(read_json(path), path)
            return _read(section, section.text("quant_method", method), f"`{path}`")
    return None


def _read(section: Config, method: str, place: str) -> Quantised:
    known = {"gptq": _gptq, "awq": _awq, "compressed-tensors": compressed_tensors}
    if method.lower() not in known:
        refuse(f"as {method}, which edgec does not read", place)
    return known[method.lower()](section, place)


def _gptq(section: Config, place: str) -> Quantised:
    format_ = section.text("checkpoint_format", section.text("format", "gptq")).lower()
    format_ = "marlin" if section.boolean("is_marlin_format", False) else format_
    if format_ not in _LESS_ONE:
        refuse(f"as GPTQ in the format `{format_}`, which edgec does not read", place)
    if (packed := section.text("pack_dtype", "int32")) != "int32":
        refuse(f"as GPTQ packed in {packed}, which edgec does not read", place)
    for key in ("adapter", "lora"):
        if section.values.get(key):
            refuse(f"as GPTQ with `{key}`, which edgec does not read", place)
    common = Scheme(
        "gptq",
        "gptq",
        _bits(section, "bits", _GPTQ_BITS, place),
        _group(section, "group_size"),
        section.boolean("sym", True),
        less_one=_LESS_ONE[format_],
    )
    rules = _rules(section, common, place)

    def scheme_of(module: str) -> Scheme | None:
        return next((scheme for found, scheme in rules if found.match(module)), common)

    return Quantised("gptq", place, scheme_of)


def _rules(section: Config, common: Scheme, place: str) -> list[tuple[re.Pattern[str], Scheme | None]]:
    """What `dynamic` says of the modules that a pattern matches: its own settings; `-:`, that they are floats."""
    rules, made = section.section("dynamic"), []
    for text in rules.values if rules is not None else ():
        found = pattern(text.removeprefix("-:").removeprefix("+:"), place)
        own = None if rules is None or text.startswith("-:") else rules.section(text)
        made.append((found, None if text.startswith("-:") else _changed(common, own, place)))
    return made


def _changed(common: Scheme, own: Config | None, place: str) -> Scheme:
    if own is None:
        return common
    bits = _bits(own, "bits", _GPTQ_BITS, place) if "bits" in own else common.bits
    group = _group(own, "group_size") if "group_size" in own else common.group
    symmetric = own.boolean("sym", common.symmetric)
    return Scheme("gptq", "gptq", bits, group, symmetric, common.less_one)


def _awq(section: Config, place: str) -> Quantised:
    version = section.text("version", section.text("format", "gemm")).lower()
    if version not in ("gemm", "gemv"):
        refuse(f"as AWQ in the version `{version}`, which edgec does not read", place)
    if not section.boolean("zero_point", True):
        refuse("as AWQ without zero points, which edgec does not read", place)
    bits, group = ("w_bit", "q_group_size") if "w_bit" in section else ("bits", "group_size")
    layout = "awq_gemm" if version == "gemm" else "awq_gemv"
    scheme = Scheme("awq", layout, _bits(section, bits, _AWQ_BITS, place), _group(section, group), symmetric=False)
    floats = section.strings("modules_to_not_convert")
    return Quantised("awq", place, lambda module: None if any(part in module for part in floats) else scheme)


def _group(section: Config, key: str) -> int | None:
    """Inputs per scale; None where the config says -1, which is all of them."""
    value = section.integer(key, minimum=-1, maximum=_LARGEST_GROUP)
    if value == 0:
        fail("E0336", f"`{key}` in `{section.path}` has to be -1 or a number of inputs above zero, not 0")
    return None if value == -1 else value


def _bits(section: Config, key: str, known: tuple[int, ...], place: str) -> int:
    bits = section.integer(key, maximum=64)
    if bits not in known:
        refuse(f"with {bits} bits, of which edgec reads {', '.join(map(str, known))}", place)
    return bits
