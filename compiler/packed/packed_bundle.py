"""A bundle whose weight files are packed, and its dense form.

target/llm.mnn.weight          ->  target/llm.mnn.weight.packed, and device/unpack.c that restores it
manifest.json                  ->  the same and `packed`: which file stands for which
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..bundle.file_hashes import check_files
from ..bundle.manifest import MANIFEST, SEAL, Manifest, load_manifest, write_manifest
from ..bundle.write import write_bundle
from ..diagnostics.diagnostic import fail
from ..emit.packed_store import PACKED
from ..emit.sparse_integers import SparseIntegers
from ..files import cache
from ..files.full_disk import writes
from .kernels import SOURCE
from .layout import VERSION
from .pack_file import dense_bytes, pack_file, packed_bytes
from .unpack_file import unpack_file

READER = f"device/{SOURCE.name}"
_ENDING = ".packed"
_KIND = "unpacked"
_FOLDER = "bundle"  # of an entry of the cache, whose seal lies beside it


def pack_files(directory: Path, tensors: Iterable[SparseIntegers]) -> dict[str, Any] | None:
    """Put packed files in the place of those that hold `tensors`; the manifest's `packed`, None where there is nothing
    to gain. `directory` is a bundle that is being made.
    """
    by_file: dict[str, dict[int, SparseIntegers]] = {}
    for tensor in tensors:  # tied ones come twice, from one place
        by_file.setdefault(tensor.file, {}).setdefault(tensor.offset, tensor)
    files = {}
    for name, places in by_file.items():
        own = list(places.values())
        dense, packed = directory / name, directory / f"{name}{_ENDING}"
        digest = pack_file(dense, own, packed)
        integers = {"dense": sum(map(dense_bytes, own)), "packed": sum(map(packed_bytes, own))}
        entry = {"file": f"{name}{_ENDING}", "sha256": digest.hex(), "size": dense.stat().st_size}
        files[name] = {**entry, "tensors": len(own), "integers": integers}
        dense.unlink()
    if not files:
        return None
    reader = directory / READER
    reader.parent.mkdir(exist_ok=True)
    with writes(reader):
        shutil.copyfile(SOURCE, reader)
    return {"version": VERSION, "reader": READER, "files": files}


def unpack_bundle(bundle: Path, output: Path | None = None) -> Manifest:
    """Make the dense bundle of a packed one, in `output` or in its own place, whole or not at all.

    E0909 if nothing is packed, E0905 and E0908 for damaged files.
    """
    manifest = load_manifest(bundle)
    if not is_packed(manifest):
        fail("E0909", f"`{bundle}` holds no packed weight files", help="it is ready to run as it is")
    check_files(manifest)
    final = bundle if output is None else output
    write_bundle(final, lambda directory: _fill(manifest, directory), rejectable=False)
    return load_manifest(final)


def is_packed(manifest: Manifest) -> bool:
    """Whether files of the bundle have to be restored before an engine can read them."""
    return bool(manifest.data.get("packed"))


def runnable(manifest: Manifest) -> Manifest:
    """The bundle itself, or its dense form from the cache, made there if need be. Hashes are checked before."""
    if not is_packed(manifest):
        return manifest
    check_files(manifest)
    key = (manifest.bundle / SEAL).read_text(encoding="ascii").split()[0]

    def build(entry: Path) -> None:
        directory = entry / _FOLDER
        directory.mkdir()
        _fill(manifest, directory)

    return load_manifest(cache.make(_KIND, key, build) / _FOLDER)


def _fill(manifest: Manifest, directory: Path) -> None:
    packed = manifest.data["packed"]
    restored = {entry["file"]: name for name, entry in packed["files"].items()}
    for name in manifest.files:
        if name == packed["reader"]:
            continue
        target = directory / restored.get(name, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in restored:
            unpack_file(manifest.bundle / name, target)
        else:
            with writes(target):
                shutil.copyfile(manifest.bundle / name, target)
    made = write_manifest(directory, _dense_manifest(manifest.data, directory))
    for name, entry in packed["files"].items():
        if made.files[name] != {key: entry[key] for key in ("sha256", "size")}:
            message = f"`{manifest.bundle / entry['file']}` restores another file than {MANIFEST} says"
            fail("E0908", message, help="compile the plan again")


def _dense_manifest(data: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    made = {key: copy.deepcopy(value) for key, value in data.items() if key != "packed"}
    for name, entry in made["models"].items():
        if "bytes" in entry:
            entry["bytes"] = sum(path.stat().st_size for path in (directory / name).rglob("*") if path.is_file())
        for row in entry["weights"]:
            row.pop("packed", None)
        for row in entry.get("sparse", []):
            if row["form"] == PACKED:
                row["form"], row["bytes"]["disk"] = "dense", row["bytes"]["dense"]
    return made
