"""The names of a decoder's K/V tensors: `past_key_3_in` is what layer 3 reads, `past_key_3_out` what it adds.

Every graph of a decoder, before and after `bucket`, and every bundle calls them so; no other module spells them.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Kind = Literal["key", "value"]
Direction = Literal["in", "out"]
KEY: Kind = "key"
VALUE: Kind = "value"
IN: Direction = "in"
OUT: Direction = "out"
KINDS: tuple[Kind, Kind] = (KEY, VALUE)
STEMS = {KEY: "past_key_{layer}", VALUE: "past_value_{layer}"}  # a name without its direction

_NAME = re.compile(r"past_(?P<kind>key|value)_(?P<layer>0|[1-9][0-9]*)_(?P<direction>in|out)")


class KvName(NamedTuple):
    """What the name of a K/V tensor says."""

    kind: Kind
    layer: int
    direction: Direction


def parse(name: str | None) -> KvName | None:
    """What `name` says; None where it is no K/V tensor's, or a value has no name."""
    match = _NAME.fullmatch(name or "")
    if match is None:
        return None
    kind, direction = match["kind"], match["direction"]
    return KvName(KEY if kind == KEY else VALUE, int(match["layer"]), IN if direction == IN else OUT)


def is_cache(name: str | None) -> bool:
    """Whether `name` is that of a K/V tensor, read or added."""
    return parse(name) is not None


def format(kind: Kind, layer: int, direction: Direction) -> str:
    """The name of one K/V tensor: the inverse of `parse`."""
    return f"{STEMS[kind].format(layer=layer)}_{direction}"


def pair(layer: int, direction: Direction) -> tuple[str, str]:
    """The names of one layer's K and V."""
    return format(KEY, layer, direction), format(VALUE, layer, direction)
