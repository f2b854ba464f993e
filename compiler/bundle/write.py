"""A bundle appears whole or not at all, also when the compile is killed at any moment.

    build/demo                       the bundle; its manifest lists its files
    build/demo.rejected              a finished bundle that a `require` line refused
    build/.edgec-partial-x1y2z3/     held by a compile, see `scratch`; its lock says of which bundle
        work/                        what is being made; brought to the disk, then exchanged with `build/demo` by rename
        old/demo                     the old bundle, only where directories cannot be exchanged (see `atomic_swap`)

Under a lock on `build` itself, a compile removes the scratch folders of ended ones and makes its own: two compiles to
one name exclude each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..diagnostics.diagnostic import RequirementError, fail
from ..diagnostics.wording import quoted, some_of
from ..files import scratch
from ..files.atomic_swap import put_in_place, sync, sync_one
from ..files.cache import make_folder
from ..files.full_disk import names_the_file
from ..files.plain_file import read_plain
from .manifest import ACTIONS, FORMAT, MANIFEST, SEAL

_PREFIX = f".{scratch.PREFIX}partial-"
_OLD = "old"
_NAMES = 6  # of files that are not the bundle's, in a message
_OTHERWISE = "give `-o` another name, or move it away"


def write_bundle(final: Path, build: Callable[[Path], None], rejectable: bool = True) -> None:
    """Let `build` fill a directory beside `final`, then put it in the place of `final` in one step.

    If `build` raises RequirementError after it has written the manifest, the bundle is kept as `<name>.rejected`
    and what stands at `final` is not touched. Without `rejectable` nobody looks whether that name is free.
    """
    final = _checked(final)
    rejected = rejected_path(final)
    check_replaceable(final)
    if rejectable:
        check_replaceable(rejected, _is_rejected)
    make_folder(final.parent, "give `-o` a folder that can be written")
    with _claimed(final) as held:
        held.work.chmod(0o777 & ~_umask())
        try:
            with names_the_file(held.work, final, scratch.ROOM_THERE):
                build(held.work)
        except RequirementError:
            if (held.work / MANIFEST).is_file():
                _install(held, rejected, _is_rejected)
            raise
        _install(held, final)
        if _is_rejected(rejected) and not foreign_files(rejected):  # what an earlier try left: this one holds
            shutil.rmtree(rejected)


def rejected_path(final: Path) -> Path:
    """Where a bundle goes whose `require` does not hold."""
    return final.with_name(f"{final.name}.rejected")


def is_bundle(directory: Path) -> bool:
    """Whether the directory's manifest says it is a bundle, of whatever version."""
    return _manifest(directory).get("format") == FORMAT


def check_replaceable(final: Path, replaceable: Callable[[Path], bool] = is_bundle) -> None:
    """A compile replaces nothing but a bundle with its own files (or an empty directory); anything else is E0906."""
    if not final.exists():
        return
    if not final.is_dir():
        fail("E0906", f"`{final}` is a file; a compile does not replace it", help=_OTHERWISE)
    if not any(final.iterdir()):
        return
    if not replaceable(final):
        what = "a bundle that no `require` refused" if is_bundle(final) else "a directory that is not an edgec bundle"
        fail("E0906", f"`{final}` is {what}; a compile does not replace it", help=_OTHERWISE)
    if others := foreign_files(final):
        named = some_of(quoted(others), _NAMES)
        message = f"`{final}` holds what is no file of the bundle: {named}; a compile does not remove it"
        fail("E0906", message, help="move it out of the bundle, or give `-o` another name")


def foreign_files(bundle: Path) -> list[str]:
    """Files and empty folders in a bundle that its manifest does not list, as paths relative to it."""
    listed = _manifest(bundle).get("files")
    own = {MANIFEST, SEAL, ACTIONS, *(listed if isinstance(listed, dict) else ())}
    others = []
    for root, folders, files in os.walk(bundle):
        here = Path(root).relative_to(bundle)
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        others += [found for name in (*files, *links) if (found := (here / name).as_posix()) not in own]
        if not (folders or files) and root != str(bundle):
            others.append(f"{here.as_posix()}/")
    return sorted(others)


def _manifest(directory: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_plain(directory / MANIFEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _is_rejected(directory: Path) -> bool:
    """Whether the directory is a bundle whose manifest says that a `require` line does not hold."""
    measured = _manifest(directory).get("measured")
    requires = measured.get("requires") if isinstance(measured, dict) else None
    broken = [row for row in requires or () if isinstance(row, dict) and row.get("holds") is False]
    return is_bundle(directory) and bool(broken)


def _checked(final: Path) -> Path:
    """The output without links and dots, a name that a bundle can have."""
    try:
        final = final.resolve()
        str(final).encode()
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        reason = (getattr(error, "strerror", None) or "its links lead in a circle").lower()
        fail("E0955", f"`{final}` cannot be written: {reason}", help="give `-o` another name")
    except UnicodeEncodeError:
        message = f"`{final}` cannot be written: its name is not UTF-8, and engines open no other file"
        fail("E0955", message, help="give `-o` another name")
    if not final.name:
        fail("E0906", f"`{final}` is the root of the file system; a compile does not replace it", help=_OTHERWISE)
    return final


def _install(held: scratch.Scratch, final: Path, replaceable: Callable[[Path], bool] = is_bundle) -> None:
    sync(held.work)
    check_replaceable(final, replaceable)  # again: a compile takes a while, and somebody may have put a file there
    aside = held.folder / _OLD
    aside.mkdir(exist_ok=True)
    put_in_place(held.work, final, aside / final.name)
    sync_one(final.parent)


@contextlib.contextmanager
def _claimed(final: Path) -> Iterator[scratch.Scratch]:
    """A scratch folder beside `final`, after what ended compiles left there was cleared; E0907 if one is at work."""
    with _locked(final.parent):
        for folder in scratch.abandoned(final.parent, _PREFIX, young=-1):  # under the lock nobody is making one
            _put_back(folder)
            scratch.remove(folder)
        for folder in scratch.scratch_folders(final.parent, _PREFIX):
            owner = scratch.owner_of(folder)
            if owner is not None and owner[1] == final.name:
                message = f"another compile is making `{final}` (process {owner[0]})"
                fail("E0907", message, help="wait for it, or give `-o` another name")
        held = scratch.hold(_PREFIX, final.parent, final.name)
    try:
        yield held
    finally:
        _put_back(held.folder)
        scratch.release(held)


def _put_back(folder: Path) -> None:
    """Where a compile ended between its two renames, the old bundle gets its name again."""
    aside = folder / _OLD
    for old in aside.iterdir() if aside.is_dir() else ():
        if not (folder.parent / old.name).exists():
            os.rename(old, folder.parent / old.name)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
