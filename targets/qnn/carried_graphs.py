"""The graphs of a context binary, carried beside it without the weights that lie in the binary anyway.

    <model>/<name>.graphs.zip    <graph>.onnx …    the target-level graphs, their weights in a file `weights.data`
                                 index.json        that file's size and weights; of each the layout in the binary
                                 places            where the tiles lie, int64, each as the step from the one before
                                 rest              weights that are in the binary in no known form

With the binary they make the target-level graphs again, on a machine that never saw the compile: what runs there has
the weights of the file that ships. And a binary with other weights does not make the graphs that the manifest names.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx

from ...compiler.diagnostics.diagnostic import EngineError, fail
from ...compiler.files.full_disk import writes
from .htp.find_weights import Found, Held, TileFinder, digest, missing, read
from .lower.rules import RULES

DATA = "weights.data"
_INDEX, _PLACES, _REST = "index.json", "places", "rest"
_MOST_REST = 0.25  # of the binary, for a big one: a bundle is handed around whole, though no phone gets the archive
_SMALL = 64 << 20  # bytes that are always carried: HTP holds weights of convolutions in forms that are not known here
_MOST_BYTES = 64 << 20  # that a graph, the index or the places may have unpacked, beside what their weights ask for
_PIECE = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_]{1,200}")
_MADE = frozenset(("Clip", "DequantizeLinear", "Identity", "MatMulNBits", "QuantizeLinear"))
_OPS = frozenset(RULES) | _MADE | frozenset(("Add", "Concat", "MatMul", "Mul", "Reshape", "Slice", "Sub", "Transpose"))
_CONTRIBUTED = frozenset(
    ("BiasGelu", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "Gelu", "QuickGelu", "SkipLayerNormalization")
)
_BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)  # what `zipfile` raises
_AGAIN = "copy the bundle again, or compile the plan again"


@dataclass(frozen=True)
class ReadBack:
    """What of the weights stands in the binary as the graphs have it; `wrong`: weights that it holds otherwise."""

    bytes: int
    of: int
    wrong: tuple[tuple[str, tuple[str, ...]], ...] = ()  # name, the graphs that read it


def archive_of(binary: Path) -> Path:
    """The file that carries the graphs of `binary`."""
    return binary.with_suffix(".graphs.zip")


def carry(entry: Path, graphs: Sequence[str], binary: Path) -> ReadBack | None:
    """Write the archive of the graphs that lie in `entry` beside their binary.

    None: too much of their weights is not to be found in it, and nothing is written.
    """
    used, inline = _weights(entry, graphs)
    data = _mapped(entry / DATA)
    finder = TileFinder(_mapped(binary))
    rows: list[dict[str, Any]] = []
    steps: list[np.ndarray] = []
    rest: list[tuple[Held, Found | None]] = []
    left = 0
    for held, readers in used.items():
        found = finder.find(held, data)
        row = {"name": held.name, "offset": held.offset, "length": held.length, "dtype": held.dtype}
        row |= {"dims": held.dims, "graphs": readers, "sha256": digest(held, data)}
        if found is None:
            rows.append(row | {"layout": None})
        else:
            steps.append(np.diff(found.places, prepend=np.int64(0)))
            rows.append(row | {"layout": found.layout, "tiles": len(found.places)})
        if found is None or found.share() < 1:
            rest.append((held, found))
            left += math.ceil(held.length * (1 - found.share() if found else 1))
    if left > max(_SMALL, _MOST_REST * binary.stat().st_size):
        return None
    index = {"size": len(data), "graphs": list(graphs), "weights": rows}
    archive = archive_of(binary)
    with writes(archive), zipfile.ZipFile(archive, "w") as made:
        _put(made, _INDEX, json.dumps(index, sort_keys=True, separators=(",", ":")).encode())
        _put(made, _PLACES, np.concatenate(steps or [np.zeros(0, np.int64)]).astype("<i8").tobytes())
        for graph in graphs:
            _put(made, f"{graph}.onnx", (entry / f"{graph}.onnx").read_bytes())
        with made.open(_info(_REST), "w", force_zip64=True) as file:
            for held, found in rest:
                file.writelines(_pieces(held, data) if found is None else missing(held, found, data))
    whole = sum(held.length for held in used)
    return ReadBack(whole - left, whole + inline)


def unpack(binary: Path, folder: Path) -> ReadBack:
    """Make `<graph>.onnx` and the file of weights in `folder` from the binary and what is carried beside it.

    Nothing in the archive is believed: EngineError (E0614) where it is not as `carry` writes it.
    """
    archive = archive_of(binary)
    try:
        with zipfile.ZipFile(archive) as carried:
            return _unpacked(carried, archive, binary, folder)
    except (*_BROKEN, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, EOFError) as error:
        message = f"`{archive.name}` is not as edgec writes it: {type(error).__name__}: {error}"
        fail("E0614", message, help=_AGAIN, kind=EngineError)


def _unpacked(carried: zipfile.ZipFile, archive: Path, binary: Path, folder: Path) -> ReadBack:
    known = {info.filename: info for info in carried.infolist()}
    index = json.loads(_bytes(carried, known[_INDEX], _MOST_BYTES))
    rows, graphs, size = list(index["weights"]), list(index["graphs"]), int(index["size"])
    shipped = _mapped(binary)
    rest = known[_REST].file_size
    # a weight comes from the binary, where it may be sparse, or from the rest; between two there is less than a page
    if not 0 <= size <= 2 * len(shipped) + rest + 4096 * (len(rows) + 1) or rest > max(_SMALL, len(shipped)):
        raise ValueError(f"weights of {size} bytes")
    helds = [_held(row, size) for row in rows]
    places = np.frombuffer(_bytes(carried, known[_PLACES], _MOST_BYTES + len(shipped)), "<i8").astype(np.int64)
    inline = sum(_graph(carried, known, name, folder, helds) for name in graphs) // max(1, len(graphs))
    wrong, got = [], 0
    weights = np.memmap(folder / DATA, np.uint8, "w+", shape=(size,)) if size else np.zeros(0, np.uint8)
    with carried.open(known[_REST]) as file:
        at = 0
        for row, held in zip(rows, helds, strict=True):
            if row["layout"] is None:
                _copy(file, weights[held.offset : held.offset + held.length])
                continue
            tiles = places[at : at + int(row["tiles"])]
            at += int(row["tiles"])
            found = Found(str(row["layout"]), np.cumsum(tiles))
            read(held, found, shipped, weights, file)
            if digest(held, weights) == row["sha256"]:
                got += int(held.length * found.share())
            else:
                wrong.append((held.name, tuple(str(name) for name in row["graphs"])))
    if isinstance(weights, np.memmap):
        weights.flush()
    return ReadBack(got, sum(held.length for held in helds) + inline, tuple(wrong))


def _held(row: dict[str, Any], size: int) -> Held:
    """A row of the index; ValueError if it leads out of the file of weights."""
    dims = tuple(int(dim) for dim in row["dims"])
    held = Held(str(row["name"]), int(row["offset"]), int(row["length"]), str(row["dtype"]), dims)
    if held.offset < 0 or held.length < 0 or held.offset + held.length > size or any(dim < 0 for dim in dims):
        raise ValueError(f"`{held.name}` lies outside of the weights")
    return held


def _is_standard(node: onnx.NodeProto) -> bool:
    """Whether it is an op of ONNX, or one of ONNX Runtime's own that reads no file: graphs that the provider
    lowers by itself may have any of them.
    """
    if node.domain == "com.microsoft":
        return node.op_type in _CONTRIBUTED
    return node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type)


def _graph(
    carried: zipfile.ZipFile, known: dict[str, zipfile.ZipInfo], name: str, folder: Path, helds: list[Held]
) -> int:
    """Write one graph to `folder` if it is one that `carry` could have written; returns its bytes of inline weights."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"a graph called {name!r:.100}")
    raw = _bytes(carried, known[f"{name}.onnx"], _MOST_BYTES)
    try:
        model = onnx.load_model_from_string(raw)
    except Exception as error:  # protobuf raises a type of its own
        raise ValueError(f"graph `{name}`: {error}") from error
    places = {(held.offset, held.length) for held in helds}
    for node in model.graph.node:
        bodies = any(found.HasField("g") or found.graphs for found in node.attribute)
        if bodies or not (node.op_type in _OPS or _is_standard(node)):
            raise ValueError(f"graph `{name}` has a `{node.op_type}`, which the target never writes")
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL and _external(tensor) not in places:
            raise ValueError(f"graph `{name}` reads a weight from elsewhere")
    if model.functions or model.graph.sparse_initializer or model.training_info:
        raise ValueError(f"graph `{name}` has functions")
    with writes(folder / f"{name}.onnx"):
        (folder / f"{name}.onnx").write_bytes(raw)
    return _inline(model)


def _weights(entry: Path, graphs: Sequence[str]) -> tuple[dict[Held, list[str]], int]:
    """The weights in the file of weights with the graphs that read them, and the bytes of those inside the graphs."""
    found: dict[tuple[int, int], tuple[Held, list[str]]] = {}
    inline = 0
    for graph in graphs:
        model = onnx.load(entry / f"{graph}.onnx", load_external_data=False)
        inline += _inline(model)
        for tensor in model.graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            offset, length = _external(tensor)
            kind = onnx.TensorProto.DataType.Name(tensor.data_type)
            held = Held(tensor.name, offset, length, kind, tuple(tensor.dims))
            found.setdefault((offset, length), (held, []))[1].append(graph)
    return dict(found[place] for place in sorted(found)), inline // max(1, len(graphs))


def _external(tensor: onnx.TensorProto) -> tuple[int, int]:
    """Where a tensor lies in the file of weights; ValueError if it is to be read from another."""
    facts = {entry.key: entry.value for entry in tensor.external_data}
    if facts.get("location") != DATA:
        raise ValueError(f"`{tensor.name}` lies in another file")
    return int(facts.get("offset", 0)), int(facts["length"])


def _inline(model: onnx.ModelProto) -> int:
    """Bytes of the weights inside a graph: gains and scales of small layers."""
    held = (one for one in model.graph.initializer if one.data_location != onnx.TensorProto.EXTERNAL)
    return sum(len(one.raw_data) for one in held if math.prod(one.dims) > 1)


def _mapped(path: Path) -> np.ndarray:
    return np.memmap(path, np.uint8, "r") if path.is_file() and path.stat().st_size else np.zeros(0, np.uint8)


def _info(name: str) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # no clock: the same graphs give the same bytes
    made.compress_type = zipfile.ZIP_DEFLATED
    return made


def _put(made: zipfile.ZipFile, name: str, content: bytes) -> None:
    made.writestr(_info(name), content)


def _bytes(carried: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    """The content of a member; ValueError if it has more than `most` bytes."""
    if info.file_size > most:
        raise ValueError(f"`{info.filename}` has {info.file_size} bytes")
    return carried.read(info)


def _pieces(held: Held, data: np.ndarray) -> Iterator[bytes]:
    """The bytes of a weight."""
    end = held.offset + held.length
    return (data[at : min(at + _PIECE, end)].tobytes() for at in range(held.offset, end, _PIECE))


def _copy(file: IO[bytes], into: np.ndarray) -> None:
    for at in range(0, len(into), _PIECE):
        content = file.read(min(_PIECE, len(into) - at))
        into[at : at + len(content)] = np.frombuffer(content, np.uint8)
        if len(content) != min(_PIECE, len(into) - at):
            raise EOFError("the rest is too short")
