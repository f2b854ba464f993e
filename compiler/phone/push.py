"""`edgec push`: a bundle onto a phone that adb reaches, whole or not at all.

    the phone's chip  ->  the files for it  ->  enough space?  ->  FOLDER.partial  ->  sha256 compared there  ->  FOLDER

What lies in the folder stays until the new files are complete and right.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..bundle.file_hashes import check_files
from ..bundle.manifest import Manifest, load_manifest
from ..diagnostics.diagnostic import EngineError, fail
from ..diagnostics.wording import count, join_or
from ..files.cache import digest_file
from ..packed.packed_bundle import runnable
from ..runtime.on_device import chosen_device
from .adb import Phone, connect
from .device_files import RUN_SCRIPT, device_files, is_needed, libraries

ROOT = "/data/local/tmp/edgec"  # where a shell may write and execute
_FOLDER = re.compile(r"/(?:[A-Za-z0-9._-]+/)+[A-Za-z0-9._-]+")
_SPARE = 16 << 20  # bytes that are to stay free
_SUMS = "device/files.sha256"


@dataclass
class Pushed:
    """What a push did: the phone, its chip, where the files are, how many and how large; libraries not there yet."""

    serial: str
    soc: str
    device: str
    folder: str
    files: int
    bytes: int
    missing: list[dict[str, str]] = field(default_factory=list)


def push_bundle(
    bundle: Path,
    serial: str | None = None,
    device: str | None = None,
    folder: str | None = None,
    library_folder: Path | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Pushed:
    """Copy the files that the phone's chip needs, and libraries that lie in `library_folder`.

    `device`: the chip, for a phone that does not say it. `folder`: on the phone, by default named like the plan.
    """
    manifest = runnable(load_manifest(bundle))
    check_files(manifest)
    target = _remote(manifest, folder)
    phone = connect(serial)
    soc = phone.property("ro.soc.model")
    chip = _chip(manifest, soc, device)
    files = {name: manifest.bundle / name for name in device_files(manifest.data, chip)}
    found, missing = _libraries(manifest, chip, library_folder)
    files |= {f"lib/{path.name}": path for path in found}
    size = sum(path.stat().st_size for path in files.values())
    _demand_space(phone, target, size)
    say(f"{count(len(files), 'file')} of {size / 1e6:.1f} MB for {chip} to {phone.serial}:{target}")
    _copy(phone, target, files, say)
    if not missing and RUN_SCRIPT in files:
        phone.shell(f"EDGEC_DEVICE={chip} sh {target}/{RUN_SCRIPT} check", "check the bundle there")
    return Pushed(phone.serial, soc, chip, target, len(files), size, missing)


def _remote(manifest: Manifest, folder: str | None) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "_", manifest.data["plan"]["name"]).strip(".") or "bundle"
    target = (folder or f"{ROOT}/{name}").rstrip("/")
    if _FOLDER.fullmatch(target) is None or ".." in target.split("/"):
        help = f"an absolute path of two names and more, of letters, digits and `._-`, such as {ROOT}/{name}"
        fail("E0953", f"`{target}` is no folder that can be filled on a phone", help=help)
    return target


def _chip(manifest: Manifest, soc: str, device: str | None) -> str:
    """The bundle's device for the phone's chip; E0924, E0943."""
    if device is None and not soc:
        built = join_or([f"`{one['name']}`" for one in manifest.data["devices"]], "or")
        message = "the phone does not say its chip: `ro.soc.model` is empty"
        fail("E0943", message, help=f"if you know it, say `--device NAME`, for this bundle {built}")
    chip = chosen_device(manifest, device or soc, unknown="E0924")
    if device is not None and soc:
        said = chosen_device(manifest, soc, unknown="E0924")
        if said != chip:
            fail("E0924", f"`--device {device}`, and the phone says it is a {soc}", help="leave `--device` out")
    return chip


def _libraries(manifest: Manifest, chip: str, folder: Path | None) -> tuple[list[Path], list[dict[str, str]]]:
    """Libraries of the folder that the chip needs, and the rows of those that are not there."""
    rows = libraries(manifest.data, chip)
    if folder is None:
        return [], rows
    if not folder.is_dir():
        fail(
            "E0944", f"`{folder}` is no folder of libraries", help="give the folder that holds libQnnHtp.so and others"
        )
    found: list[Path] = []
    missing: list[dict[str, str]] = []
    for row in rows:
        there = sorted(folder.rglob(row["file"]))
        if there:
            found.append(there[0])
        elif is_needed(row):
            missing.append(row)
    if missing:
        listed = join_or([f"`{row['file']}`" for row in missing], "and")
        help = f"{missing[0]['file']}: {missing[0].get('from', 'see docs/phone.md')}"
        fail("E0944", f"`{folder}` lacks {listed}, which the bundle needs on {chip}", help=help)
    return found, missing


def _demand_space(phone: Phone, target: str, size: int) -> None:
    parent = "/" + target.split("/")[1]
    free = phone.free_bytes(parent)
    if free is not None and free < size + _SPARE:
        message = (
            f"`{phone.serial}` has {free / 1e6:.0f} MB free in {parent}, the files need {(size + _SPARE) / 1e6:.0f} MB"
        )
        fail("E0945", message, help="remove what is not needed there; an old bundle is kept until the new one is whole")


def _copy(phone: Phone, target: str, files: Mapping[str, Path], say: Callable[[str], None]) -> None:
    partial = f"{target}.partial"
    folders = sorted({f"{partial}/{name}".rpartition("/")[0] for name in (*files, _SUMS)})
    phone.shell(f"rm -rf {partial} && mkdir -p {_words(folders)}", "make folders")
    with tempfile.NamedTemporaryFile("w", suffix=".sha256") as sums:
        sums.writelines(f"{digest_file(path)}  {name}\n" for name, path in files.items())
        sums.flush()
        for name, path in files.items():
            say(f"{name}: {path.stat().st_size / 1e6:.1f} MB")
            phone.push(path, f"{partial}/{name}")
        phone.push(Path(sums.name), f"{partial}/{_SUMS}")
    checked = phone.shell(
        f"cd {partial} && sha256sum -c {_SUMS} >/dev/null 2>&1 && echo whole || echo damaged", "compare"
    )
    if checked.strip() != "whole":
        phone.shell(f"rm -rf {partial}", "remove what is damaged")
        fail("E0946", "what arrived on the phone is not what was sent", help="push again", kind=EngineError)
    phone.shell(f"rm -rf {target} && mv {partial} {target}", "put the new files in place")


def _words(names: Sequence[str]) -> str:
    return " ".join(map(shlex.quote, names))
