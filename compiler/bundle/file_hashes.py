"""Whether a bundle's files are what its manifest says, before an engine loads them: some load damage without a word.

Files are hashed in pieces. A hash is noted in the cache under the file's path, size, inode and times, so that a large
bundle is read once and not before every run; `edgec verify` reads every time.
"""

from __future__ import annotations

from pathlib import Path

from ..diagnostics.diagnostic import fail
from ..files.noted_digest import noted_digest
from .manifest import Manifest

_AGAIN = "copy the bundle again, or compile again"


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
        if noted_digest(path) != entry["sha256"]:
            fail("E0905", f"`{path}` has been changed: its sha256 is not the manifest's", help=_AGAIN)


def _through_a_link(bundle: Path, name: str) -> bool:
    path = bundle
    return any((path := path / step).is_symlink() for step in Path(name).parts)
