"""Whether a bundle's files are what its manifest says, before an engine loads them: some load damage without a word.

Files are hashed in pieces. A hash is noted in the cache under the file's path, size, inode and times, so that a large
bundle is read once and not before every run; `edgec verify` reads every time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from pathlib import Path

from ..diagnostics.diagnostic import fail
from ..files import cache
from .manifest import Manifest

_KIND = "hashed"
_AGAIN = "copy the bundle again, or compile again"
_CLOCK_STEP = 2.0  # seconds: a file younger than this can change again without another time (FAT's step is the longest)


def check_files(manifest: Manifest) -> None:
    """Every file there, of its size and with its hash; the sizes first, they cost nothing."""
    for name, entry in manifest.files.items():
        path = manifest.bundle / name
        if _through_a_link(manifest.bundle, name):
            fail("E0905", f"`{path}` is reached through a symbolic link: a bundle holds files only", help=_AGAIN)
        if not path.is_file():
            fail("E0905", f"`{path}` is missing from the bundle", help=_AGAIN)
        if path.stat().st_size != entry["size"]:
            message = f"`{path}` has {path.stat().st_size} bytes, the manifest says {entry['size']}"
            fail("E0905", message, help=_AGAIN)
    for name, entry in manifest.files.items():
        path = manifest.bundle / name
        if _digest(path) != entry["sha256"]:
            fail("E0905", f"`{path}` has been changed: its sha256 is not the manifest's", help=_AGAIN)


def _through_a_link(bundle: Path, name: str) -> bool:
    path = bundle
    return any((path := path / step).is_symlink() for step in Path(name).parts)


def _digest(path: Path) -> str:
    """The file's sha256, from the cache where the same file was hashed before."""
    held = path.stat()
    facts = [str(path.resolve()), held.st_size, held.st_ino, held.st_dev, held.st_mtime_ns, held.st_ctime_ns]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    noted = cache.read_note(_KIND, key)
    if noted is not None:
        return noted
    digest = cache.digest_file(path)
    if time.time() - max(held.st_mtime, held.st_ctime) > _CLOCK_STEP:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
            cache.write_note(_KIND, key, digest)
    return digest
