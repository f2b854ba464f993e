"""One data file in which weights of a kind lie beside each other: kinds, in each the layers in order, each on a page.

    kind   what a weight's name says besides its layer: `mlp.gate_proj` of `layers.3.mlp.gate_proj.weight`
    index  kind -> offset and bytes of the whole run, and of each layer's tensors in it

What belongs to no layer (embeddings, head, the last norm) comes last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx_ir as ir

PAGE = 4096
_LAYER = re.compile(r"(?:^|[./_])(\d+)[./_]")


class Place(NamedTuple):
    """Where a tensor lies in the file."""

    name: str
    offset: int
    bytes: int


def by_kind(places: Sequence[Place]) -> list[Place]:
    """In the order that their kinds are written in."""
    order = sorted(range(len(places)), key=lambda at: _rank(places[at].name, at))
    return [places[at] for at in order]


def kind_of(name: str) -> tuple[str | None, int]:
    """(kind, layer) of a tensor; the kind is None where no layer is named.

    Scales and zero points have the kind of their weight: the kind has two words.
    """
    found = _LAYER.search(name)
    if found is None:
        return None, 0
    words = re.split(r"[./]", name[found.end() :])
    return ".".join(words[:2]), int(found[1])


def write_by_kind(tensors: Sequence[ir.TensorProtocol], directory: Path, name: str) -> list[ir.ExternalTensor]:
    """Stream the tensors into `directory/name` in that order; what stands for each, in the order they were given."""
    order = sorted(range(len(tensors)), key=lambda at: _rank(tensors[at].name or "", at))
    places: dict[int, ir.ExternalTensor] = {}
    with (directory / name).open("wb") as file:
        for at in order:
            tensor = tensors[at]
            file.write(b"\0" * (-file.tell() % PAGE))
            offset = file.tell()
            tofile = getattr(tensor, "tofile", None)
            if tofile is None:
                file.write(tensor.tobytes())
            else:
                tofile(file)
            shape = ir.Shape([int(size) for size in tensor.shape.numpy()])
            length, label = file.tell() - offset, tensor.name or ""
            places[at] = ir.ExternalTensor(
                name, offset, length, tensor.dtype, shape=shape, name=label, base_dir=directory
            )
    return [places[at] for at in range(len(tensors))]


def index_of(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Where each kind lies in the data file of ONNX files: read from the files themselves."""
    rows: dict[str, Place] = {}
    for path in paths:
        for value in ir.load(path).graph.initializers.values():
            held = value.const_value
            if isinstance(held, ir.ExternalTensor):
                rows[held.name] = Place(held.name, int(held.offset or 0), int(held.length or held.nbytes))
    return index_of_places(list(rows.values()))


def index_of_places(places: Sequence[Place]) -> list[dict[str, Any]]:
    """The same of tensors whose places are known."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for tensor, offset, size in sorted(places, key=lambda one: one[1:]):
        kind, layer = kind_of(tensor)
        if kind is not None:
            kinds.setdefault(kind, []).append({"tensor": tensor, "layer": layer, "offset": offset, "bytes": size})
    return [
        {
            "kind": kind,
            "offset": found[0]["offset"],
            "bytes": found[-1]["offset"] + found[-1]["bytes"] - found[0]["offset"],
            "tensors": found,
        }
        for kind, found in kinds.items()
    ]


def _rank(name: str, at: int) -> tuple[bool, str, int, int]:
    kind, layer = kind_of(name)
    return kind is None, kind or "", layer, at
