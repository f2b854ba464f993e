"""The weights of a graph put beside each other by kind, each on a page, in MNN's file of weights.

    .weight    op 0 | op 1 | ...   ->   kinds, in each the layers in order; what belongs to no layer comes last
    op         external = [offset, bytes, bytes, ...]   ->   the new offset

An op says where its bytes lie, so that the engine reads any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from ....compiler.files.full_disk import writes
from ....compiler.ir.ordered_data import PAGE, Place, by_kind
from .weight_blobs import Blob
from .writer import Json, Net

_AT_ONCE = 1 << 22  # bytes that are copied in one go


def order_by_kind(net: Net, blobs: Mapping[str, Blob], path: Path) -> tuple[dict[str, Blob], list[Place]]:
    """Rewrite the file `path`, and the offsets of the ops of `net`, in place. The blobs and each op's place there."""
    ops = [op for op in net.ops if _external(op)]
    starts = {_external(op)[0]: sum(_external(op)[1:]) for op in ops}  # ops that share a weight begin alike
    names = {_external(op)[0]: op["name"] for op in reversed(ops)}
    moved: dict[int, int] = {}
    ordered = path.with_name(f"{path.name}.ordered")
    with path.open("rb") as source, writes(ordered), ordered.open("wb") as target:
        for place in by_kind([Place(names[at], at, size) for at, size in starts.items()]):
            target.write(b"\0" * (-target.tell() % PAGE))
            moved[place.offset] = target.tell()
            source.seek(place.offset)
            _copy(source, target, place.bytes)
    ordered.replace(path)
    for op in ops:
        _external(op)[0] = moved[_external(op)[0]]
    made = {name: replace(blob, offset=moved[blob.offset]) for name, blob in blobs.items()}
    return made, [Place(names[at], moved[at], size) for at, size in starts.items()]


def _external(op: Json) -> list[int]:
    return (op.get("main") or {}).get("external") or []


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> None:
    while size:
        piece = source.read(min(size, _AT_ONCE))
        if not piece:
            raise ValueError("the file of weights ends before an op's do")
        target.write(piece)
        size -= len(piece)
