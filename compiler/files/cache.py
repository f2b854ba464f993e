"""A content-addressed cache for what can be made again: `EDGEC_CACHE`, by default the user's cache folder.

    <root>/<kind>/3f/3f…/       an entry: files under a key, with a seal (see `seal`); `make`, `find`
    <root>/<kind>/3f/3f….note   a note: one short text under a key; `write_note`, `read_note`
    <root>/.scratch/            what is being made

The cache is input like any other: disks fail, people copy folders. Every file is compared with the digest it had when
it was written, once in a process and again when it has changed. What does not fit is removed, a warning (W0955) says so
once for each kind, and whoever asked makes it again. Entries are brought to the disk before they get their name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from ..diagnostics.diagnostic import Diagnostic, fail
from ..diagnostics.warn import warn
from . import seal
from .atomic_swap import sync, sync_one
from .scratch import scratch_folder, sweep
from .seal import digest_file as digest_file

NOTE = ".note"
_fitting: dict[Path, object] = {}  # entries of this process that fitted their seals -> their facts then
_said: set[str] = set()
_uses: Counter[tuple[str, bool]] = Counter()  # (kind, whether it was there) of every entry that was asked for
_recordings: list[set[tuple[str, str, bool]]] = []
_roots: dict[Path, int] = {}  # caches that this process reads from -> the descriptor of a shared lock


def cache_root() -> Path:
    """Where entries lie: `$EDGEC_CACHE`, else `$XDG_CACHE_HOME/edgec`, else `~/.cache/edgec`."""
    if root := os.environ.get("EDGEC_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgec"


def make_folder(folder: Path, help: str) -> None:
    """Make `folder` with its parents; what the system refuses, also to write there, is an error with this help."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        reason = "a file is in its way" if error.errno == errno.EEXIST else (error.strerror or str(error)).lower()
        fail("E0955", f"the folder `{folder}` cannot be written: {reason}", help=help)


def make_root() -> None:
    """Make the cache's own folder, before work is done whose result goes there."""
    make_folder(cache_root(), "set `EDGEC_CACHE` to a folder that can be written")


def entry(kind: str, key: str) -> Path:
    """The folder of an entry, whether or not there is one: `find` says that, and whether it can be believed."""
    return cache_root() / kind / key[:2] / key


@contextlib.contextmanager
def recorded() -> Iterator[set[tuple[str, str, bool]]]:
    """What this process reads or makes in the block: kind, key, and whether it is a note."""
    seen: set[tuple[str, str, bool]] = set()
    _recordings.append(seen)
    try:
        yield seen
    finally:
        _recordings[:] = [one for one in _recordings if one is not seen]


def _record(kind: str, key: str, note: bool = False) -> None:
    for seen in _recordings:
        seen.add((kind, key, note))


def find(kind: str, key: str) -> Path | None:
    """The folder of a complete entry whose files fit their digests; None if there is none.

    An entry that does not fit is removed, with a warning.
    """
    found = _find(kind, key)
    if found is not None:
        _record(kind, key)
    return found


def _find(kind: str, key: str) -> Path | None:
    folder = entry(kind, key)
    if not folder.is_dir():
        return None
    hold_root()
    with contextlib.suppress(OSError):
        if _fitting.get(folder) == seal.facts(folder):
            _uses[kind, True] += 1
            return folder
    try:
        wrong = seal.damage(folder, f"{kind}/{key}")
        if wrong is None:
            _fitting[folder] = seal.facts(folder)
            _uses[kind, True] += 1
            with contextlib.suppress(OSError):
                os.utime(folder)  # the time of its last use, which `edgec cache prune` goes by
            return folder
    except OSError as error:
        wrong = f"it cannot be read: {(error.strerror or str(error)).lower()}"
    _discard(kind, folder, wrong)
    return None


def make(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the entry; if there is none, or a damaged one, `build` fills a scratch folder that becomes it."""
    found = find(kind, key)
    if found is not None:
        return found
    final = entry(kind, key)
    hold_root()
    with scratch(kind, final) as work:
        build(work)
        _uses[kind, False] += 1
        seal.write_seal(work, f"{kind}/{key}")
        sync(work)
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(work, final)
        except OSError:
            if find(kind, key) is None:  # somebody else was faster is fine, anything else is not
                raise
        sync_one(final.parent)
    with contextlib.suppress(OSError):
        _fitting[final] = seal.facts(final)
    _record(kind, key)
    return final


def uses() -> dict[str, tuple[int, int]]:
    """Kind -> how many entries this process found, and how many it made."""
    return {kind: (_uses[kind, True], _uses[kind, False]) for kind, _ in sorted(_uses)}


class Damaged(Exception):
    """What was to be taken into the cache does not fit its seal; the text says how."""


def adopt(kind: str, key: str, fill: Callable[[Path], None]) -> Path:
    """The entry; if there is none, `fill` brings it from elsewhere with its seal. Damaged where these do not fit."""

    def checked(work: Path) -> None:
        fill(work)
        try:
            wrong = seal.damage(work, f"{kind}/{key}")
        except ValueError:
            wrong = "its seal is not whole"
        if wrong is not None:
            raise Damaged(wrong)
        (work / seal.SEAL).unlink()

    return make(kind, key, checked)


def read_note(kind: str, key: str) -> str | None:
    """The text of a note; None if there is none.

    A note that is empty, cut, or another's is none: it is removed, with a warning.
    """
    path = _note(kind, key)
    try:
        text = opened_note(path, f"{kind}/{key}")
    except IsADirectoryError:
        text = None
    except OSError:
        return None
    if text is None:
        _discard(kind, path, "it is not whole")
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    _record(kind, key, note=True)
    return text


def opened_note(path: Path, name: str) -> str | None:
    """The text of the note `kind/key` that lies at `path`; None if that is not whole, or another's."""
    sealed = seal.opened_line(path.read_bytes())
    text = sealed.get("text") if sealed is not None and sealed.get("note") == name else None
    return text if isinstance(text, str) else None


def write_note(kind: str, key: str, text: str) -> None:
    """Keep a short text under a key, in the place of what was there; OSError where the cache cannot be written."""
    path = _note(kind, key)
    with scratch(kind) as work:
        written = work / "note"
        written.write_text(seal.sealed_line({"note": f"{kind}/{key}", "text": text}), encoding="ascii")
        sync_one(written)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(written, path)
        sync_one(path.parent)
    _record(kind, key, note=True)


def hold_root() -> int | None:
    """Let nobody prune the cache as long as this process lives; the lock's descriptor, None where there can be none."""
    root = cache_root()
    if root not in _roots:
        with contextlib.suppress(OSError):  # a cache that can only be read
            root.mkdir(parents=True, exist_ok=True)
            _roots[root] = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(_roots[root], fcntl.LOCK_SH)
    return _roots.get(root)


def remove_scratch() -> None:
    """Remove what processes that were killed had begun to make."""
    sweep(cache_root() / ".scratch")


def _note(kind: str, key: str) -> Path:
    folder = entry(kind, key)
    return folder.with_name(folder.name + NOTE)


@contextlib.contextmanager
def scratch(kind: str, final: Path | None = None) -> Iterator[Path]:
    """An empty folder for the block on the cache's file system, from where files can be renamed into an entry.

    Errors of a full disk name its files as those of `final`.
    """
    parent = cache_root() / ".scratch"
    parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(kind, parent, final) as work:
        yield work


def _discard(kind: str, path: Path, wrong: str) -> None:
    """Remove an entry or a note that is not to be believed, and say so once for each kind."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            with scratch(kind) as work:  # away in one step: nobody finds half of it
                os.rename(path, work / "damaged")
        else:
            path.unlink()
    if path.exists():
        shutil.rmtree(path, ignore_errors=True)
    if kind not in _said:
        _said.add(kind)
        message = f"the cache entry `{path}` is damaged ({wrong}); it is removed and made again"
        help = f"other damaged entries of `{kind}` are removed without a word; `edgec cache check` looks at all"
        warn(Diagnostic("W0955", message, help=help, severity="warning"))
