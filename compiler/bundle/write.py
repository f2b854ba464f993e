"""A bundle appears whole or not at all, also when the compile is killed at any moment.

    build/.demo.lock            held while a compile makes `build/demo` (flock: it ends with its process)
    build/.demo.partial-x1y2    what is being made; brought to the disk, then exchanged with `build/demo` by rename
    build/.demo.old             the old bundle, only where directories cannot be exchanged (see `atomic_swap`)
    build/demo.rejected         a finished bundle that a `require` line refused

Under the lock whatever is called `.partial-` belongs to a compile that died, and is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..diagnostics.diagnostic import RequirementError, fail
from ..files.atomic_swap import put_in_place, sync
from ..files.cache import make_folder
from .manifest import FORMAT, MANIFEST


def write_bundle(final: Path, build: Callable[[Path], None]) -> None:
    """Let `build` fill a directory beside `final`, then put it in the place of `final` in one step.

    If `build` raises RequirementError after it has written the manifest, the bundle is kept as `<name>.rejected`
    and what stands at `final` is not touched.
    """
    final = final.resolve()
    rejected = rejected_path(final)
    for place in (final, rejected):
        check_replaceable(place)
    make_folder(final.parent, "give `-o` a folder that can be written")
    with _locked(final):
        _clear(final)
        scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}.partial-", dir=final.parent))
        try:
            scratch.chmod(0o777 & ~_umask())  # mkdtemp makes it for its owner only
            try:
                build(scratch)
            except RequirementError:
                if (scratch / MANIFEST).is_file():
                    _install(scratch, rejected)
                raise
            _install(scratch, final)
            if is_bundle(rejected):  # what an earlier try left: this one holds
                shutil.rmtree(rejected)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def rejected_path(final: Path) -> Path:
    """Where a bundle goes whose `require` does not hold."""
    return final.with_name(f"{final.name}.rejected")


def check_replaceable(final: Path) -> None:
    """A compile replaces nothing but a bundle (or an empty directory). Cheap: called before anything is built."""
    if not final.exists() or is_bundle(final):
        return
    if final.is_dir() and not any(final.iterdir()):
        return
    what = "a directory that is not an edgec bundle" if final.is_dir() else "a file"
    fail("E0906", f"`{final}` is {what}; a compile does not replace it", help="give `-o` another name, or remove it")


def is_bundle(directory: Path) -> bool:
    """Whether the directory's manifest says it is a bundle, of whatever version."""
    try:
        data = json.loads((directory / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("format") == FORMAT


def _install(scratch: Path, final: Path) -> None:
    sync(scratch)
    old = put_in_place(scratch, final, aside=_aside(final))
    sync_parent = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(sync_parent)
    finally:
        os.close(sync_parent)
    if old is not None:
        shutil.rmtree(old)


def _aside(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _clear(final: Path) -> None:
    """Undo what a compile left that died; the caller holds the lock, so no other one is alive."""
    aside = _aside(final)
    if aside.is_dir() and not final.exists():
        os.rename(aside, final)
    shutil.rmtree(aside, ignore_errors=True)
    prefix = f".{final.name}.partial-"
    for path in final.parent.iterdir():
        if path.name.startswith(prefix):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(final: Path) -> Iterator[None]:
    path = final.with_name(f".{final.name}.lock")
    descriptor = _take(path, final)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock ends: `_take` notices a lock on a name that is gone
        os.close(descriptor)


def _take(path: Path, final: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip()
            os.close(descriptor)
            who = f" (process {owner})" if owner else ""
            fail("E0907", f"another compile is making `{final}`{who}", help="wait for it, or give `-o` another name")
        if _same_file(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            return descriptor
        os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
