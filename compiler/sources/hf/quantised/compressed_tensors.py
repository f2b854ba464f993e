"""The `quantization_config` of a compressed-tensors checkpoint: groups of modules, the form of weights of each."""

from __future__ import annotations

import re

from ..config_file import Config
from .refusals import pattern, refuse
from .scheme import Quantised, Scheme

_FORMAT = "pack-quantized"
_CLASS = "Linear"  # the only class of modules of a decoder that is quantised


def compressed_tensors(section: Config, place: str) -> Quantised:
    """The schemes of a `pack-quantized` checkpoint; everything else is refused by its name."""
    for key in ("sparsity_config", "transform_config"):
        inner = section.section(key)
        if inner is not None and (inner.values.get("config_groups") or inner.text("format", "dense") != "dense"):
            refuse(f"as compressed-tensors with `{key}`, which edgec does not read", place)
    groups = section.section("config_groups")
    sections = [groups.section(name) for name in groups.values] if groups is not None else []
    default = section.text("format", _FORMAT)
    found = [(_targets(group, place), _scheme(group, default, place)) for group in sections if group is not None]
    if not found:
        refuse("as compressed-tensors without `config_groups`", place)
    ignored = [_names(text, place) for text in section.strings("ignore")]

    def scheme_of(module: str) -> Scheme | None:
        if any(name.fullmatch(module) for name in ignored):
            return None
        named = (scheme for (names, _), scheme in found if any(name.fullmatch(module) for name in names))
        classes = (scheme for (_, all_linears), scheme in found if all_linears)
        return next(named, next(classes, None))  # a name goes before a class, as in the library

    return Quantised("compressed-tensors", place, scheme_of)


def _targets(group: Config, place: str) -> tuple[list[re.Pattern[str]], bool]:
    """The names that a group selects, and whether it selects all linears."""
    targets = group.strings("targets") or [_CLASS]
    return [_names(text, place) for text in targets if text != _CLASS], _CLASS in targets


def _names(text: str, place: str) -> re.Pattern[str]:
    """A module's name, or behind `re:` a pattern that names begin with."""
    if text.startswith("re:"):
        return pattern(f"(?:{text.removeprefix('re:')}).*", place)
    return re.compile(re.escape(text))


def _scheme(group: Config, default: str, place: str) -> Scheme:
    if (format_ := group.text("format", default)) != _FORMAT:
        refuse(f"as compressed-tensors in the format `{format_}`, which edgec does not read", place)
    for key in ("input_activations", "output_activations"):
        if key in group:
            refuse(f"as compressed-tensors with integers for `{key}`, which edgec does not read", place)
    weights = group.section("weights")
    if weights is None:
        refuse("as compressed-tensors with a group that has no `weights`", place)
    if (kind := weights.text("type", "int")) != "int":
        refuse(f"as compressed-tensors with weights of type `{kind}`, which edgec does not read", place)
    strategy = weights.text("strategy", "group" if "group_size" in weights else "channel")
    symmetric = weights.boolean("symmetric", True)
    if strategy not in ("group", "channel", "tensor") or (strategy == "tensor" and not symmetric):
        refuse(f"as compressed-tensors with the strategy `{strategy}`, which edgec does not read so", place)
    bits = weights.integer("num_bits", maximum=64)
    if not 2 <= bits <= 8:
        refuse(f"as compressed-tensors with {bits} bits, of which edgec reads 2 to 8", place)
    size = weights.integer("group_size") if strategy == "group" else None
    return Scheme("compressed-tensors", "packed", bits, size, symmetric, one_scale=strategy == "tensor")
