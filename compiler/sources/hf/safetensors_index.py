"""The tensors of a safetensors checkpoint, found by their headers alone and read lazily.

    file = u64 n | n bytes of JSON {name: {dtype, shape, data_offsets: [begin, end)}} | data

A checkpoint is `model.safetensors`, or shards named by `model.safetensors.index.json`. Offsets count from the data.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...diagnostics.diagnostic import fail
from ...files.plain_file import kind
from ...files.positional_read import SourceFile
from .config_file import Config, pointer_hint, read_json

if TYPE_CHECKING:
    from ...ir.weights import Weight

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_AS_SAFETENSORS = (
    "if you trust them, save them as safetensors: "
    "`transformers.AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OTHER)`"
)
_DAMAGED = "the file is damaged or was made by another tool: fetch the checkpoint again"
_LONGEST_NAME = 200
_LONGEST_HEADER = 100 << 20  # the format's own limit
_INTEGERS = {"I8": 1, "U8": 1, "I32": 4, "U32": 4, "I64": 8}  # of quantised checkpoints, bytes
_DTYPES = {"F32": ("FLOAT", 4), "F16": ("FLOAT16", 2), "BF16": ("BFLOAT16", 2)}  # ONNX's word for it, bytes


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor is stored."""

    name: str
    file: SourceFile
    offset: int
    dtype: str
    shape: tuple[int, ...]

    def weight(self) -> Weight:
        """The tensor in its stored type, read in rows on demand."""
        import onnx_ir as ir

        from ...ir.weights import from_file

        self.check_type()
        return from_file(self.name, self.file, self.offset, ir.DataType[_DTYPES[self.dtype][0]], self.shape)

    def check_type(self) -> None:
        """Fail if the stored type is none that edgec reads."""
        if self.dtype not in _DTYPES:
            known = ", ".join(_DTYPES)
            message = f"tensor `{self.name}` in `{self.file.path}` is stored as {self.dtype}"
            fail("E0346", message, help=f"edgec reads float checkpoints: {known}")


def read_checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of the checkpoint in `folder` by their stored names."""
    single, index = folder / SINGLE, folder / INDEX
    if single.exists():
        if not single.is_file():
            fail("E0340", f"`{single}` is {kind(single.stat().st_mode)}, not a file")
        return read_header(single)
    if index.exists():
        return _read_shards(folder, index)
    if sorted(folder.glob("*.bin")) or sorted(folder.glob("*.pth")):
        message = f"`{folder}` has its weights as pickled torch files only, which edgec does not open"
        fail("E0340", message, help=_AS_SAFETENSORS)
    if shards := sorted(path.name for path in folder.glob("*.safetensors") if path.is_file()):
        message = f"`{folder}` has `{shards[0]}` but no `{INDEX}`, which says what is in which file"
        help = "download the index too, it lies beside the shards"
        if len(shards) == 1:
            help = f"if that file is the whole model, rename it to `{SINGLE}`"
        fail("E0340", message, help=help)
    help = "a model folder holds config.json and *.safetensors: was the download complete?"
    fail("E0340", f"`{folder}` has neither `{SINGLE}` nor `{INDEX}`", help=help)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file; whatever in its header does not fit the file is an error."""
    source = SourceFile(path)
    try:
        size = path.stat().st_size
        length = int.from_bytes(source.read(0, 8), "little") if size >= 8 else size
        if size < 8 or length > min(_LONGEST_HEADER, size - 8):
            message = f"`{path}` is no safetensors file, or was cut: its header does not fit in its {size} bytes"
            fail("E0341", message, help=pointer_hint(bytes(source.read(0, min(size, 64)))))
        raw = bytes(source.read(8, length))
    except OSError as problem:
        fail("E0340", f"cannot read `{path}`: {(problem.strerror or str(problem)).lower()}")
    try:
        header = json.loads(raw, object_pairs_hook=lambda pairs: _once(pairs, path))
    except (ValueError, RecursionError):
        fail("E0341", f"`{path}` is no safetensors file: its header is not JSON")
    if not isinstance(header, dict):
        fail("E0341", f"`{path}` is no safetensors file: its header is not an object")
    start = 8 + length
    found = {
        name: _stored(name, entry, source, start, size) for name, entry in header.items() if name != "__metadata__"
    }
    _check_layout(path, header, size - start)
    return found


def _once(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        fail("E0341", f"`{path}` is no safetensors file: its header has `{twice}` twice")
    return found


def _check_layout(path: Path, header: dict[str, Any], size: int) -> None:
    """Tensors lie one behind the other and fill the file, as the format demands: no two share bytes."""
    places = sorted((*entry["data_offsets"], name) for name, entry in header.items() if name != "__metadata__")
    reached, before = 0, ""
    for begin, end, name in places:
        if begin < reached:
            fail("E0341", f"tensors `{before}` and `{name}` in `{path}` share bytes", help=_DAMAGED)
        if begin > reached or end < begin:
            message = f"`{path}` has {begin - reached} bytes before tensor `{name}` that are no tensor's"
            fail("E0341", message, help=_DAMAGED)
        reached, before = end, name
    if reached != size:
        message = f"`{path}` has {size - reached} bytes behind its last tensor that are no tensor's"
        fail("E0341", message, help=_DAMAGED)


def _stored(name: str, entry: Any, source: SourceFile, start: int, size: int) -> StoredTensor:
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _naturals(fields, "shape"), _naturals(fields, "data_offsets")
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        fail("E0341", f"the header of `{source.path}` gives no usable offsets or type for tensor `{name}`")
    begin, end = offsets
    if start + end > size:
        missing = start + end - size
        fail("E0342", f"`{source.path}` is cut short: tensor `{name}` ends {missing} bytes beyond the file")
    size_of = _DTYPES[dtype][1] if dtype in _DTYPES else _INTEGERS.get(dtype)
    if size_of is not None and end - begin != math.prod(shape) * size_of:
        fail("E0341", f"tensor `{name}` in `{source.path}`: {end - begin} bytes do not make {dtype}{list(shape)}")
    return StoredTensor(name, source, start + begin, dtype, shape)


def _naturals(fields: dict[str, Any], key: str) -> tuple[int, ...] | None:
    value = fields.get(key)
    if isinstance(value, list) and all(type(item) is int and item >= 0 for item in value):
        return tuple(value)
    return None


def _read_shards(folder: Path, index: Path) -> dict[str, StoredTensor]:
    section = Config(read_json(index), index).section("weight_map")
    if section is None:
        fail("E0336", f"`{index}` has no `weight_map`")
    headers: dict[str, dict[str, StoredTensor]] = {}
    out = {}
    for name in section.values:
        shard = section.text(name)
        if shard not in headers:
            headers[shard] = _read_shard(folder, shard, index)
        if name not in headers[shard]:
            fail("E0343", f"`{folder / shard}` has no tensor `{name}`, which `{index.name}` promises")
        out[name] = headers[shard][name]
    return out


def _read_shard(folder: Path, shard: str, index: Path) -> dict[str, StoredTensor]:
    if Path(shard).name != shard or len(shard) > _LONGEST_NAME or not shard.isprintable():
        fail("E0340", f"`{index}` names `{shard[:_LONGEST_NAME]}`, which is not a file of its own folder")
    if not (folder / shard).is_file():
        fail("E0340", f"`{folder}` lacks `{shard}`, which `{index.name}` names")
    return read_header(folder / shard)
