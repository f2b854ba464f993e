"""QNN's container for several chips: a zip archive, stored without compression, of one graph prepared for each.

    htp.cache.sm8550.0, htp.cache.sm8650.0, …    a context of the chip with this part number, weights left out
    htp.shared.weights.<…>                       the weights, once for all chips
    dlc.metadata…                                which belongs to what

QAIRT 2.51 writes checksums into it that are none of their entries, so entries are read at their places.
"""

from __future__ import annotations

import struct
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .read_context import read_context

_CONTEXT = "htp.cache."
_LOCAL_HEADER = 30  # bytes of a zip entry's own header, before its name
_MOST_BYTES = 2 << 30  # of one context


def is_container(path: Path) -> bool:
    """Whether a file is such an archive, and not a context of one chip."""
    return zipfile.is_zipfile(path)


def read_container(path: Path, soc_model: int | None) -> dict[str, Any]:
    """What the context of one chip says of itself, the first one's for None; `socs` are all that are there.

    {"error": text} for an archive that holds none for it.
    """
    found = {info.get("soc_model", -1): info for info in _contexts(path)}
    wrong = next((info for info in found.values() if "error" in info), None)
    if wrong is not None:
        return wrong
    if not found:
        return {"error": "it is an archive without a context in it"}
    if soc_model is not None and soc_model not in found:
        return {"error": f"it holds no graph for SoC {soc_model}, only for {', '.join(map(str, found))}"}
    chosen = next(iter(found)) if soc_model is None else soc_model
    return found[chosen] | {"socs": list(found)}


def _contexts(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.filename.startswith(_CONTEXT):
                yield _context(file, member)


def _context(file: Any, member: zipfile.ZipInfo) -> dict[str, Any]:
    if member.compress_type != zipfile.ZIP_STORED or member.file_size > _MOST_BYTES:
        return {"error": f"its entry {member.filename} is compressed or too large"}
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER:
        return {"error": f"its entry {member.filename} is cut off"}
    name, extra = struct.unpack("<HH", header[26:30])
    file.seek(member.header_offset + _LOCAL_HEADER + name + extra)
    with tempfile.NamedTemporaryFile(suffix=".bin") as alone:
        alone.write(file.read(member.file_size))
        alone.flush()
        return read_context(Path(alone.name))
