"""sha256 of large files, read by a thread beside the work that reads them anyway.

    with Digests(source.files) as digests:      begins to read
        …
        digests.of(path)                        waits for what is left

The thread ends with the block, read to the end or not: a compile that fails does not wait for gigabytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

from .noted_digest import announce, find_digest, note_digest, withdraw

_PIECE = 4 << 20  # bytes; hashing one keeps no other thread waiting


class Digests:
    """Digests of some files, in the order they are given."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._found: dict[Path, Future[str]] = {path: Future() for path in paths}
        self._announced: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="digests", daemon=True)

    def __enter__(self) -> Digests:
        for path, future in self._found.items():
            with contextlib.suppress(OSError):  # said where its digest is wanted
                self._announced.append(announce(path, future))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for key in self._announced:
            withdraw(key)

    def of(self, path: Path) -> str:
        """sha256 of one of the files, in hexadecimal; OSError where it could not be read. Waits for it."""
        return self._found[path].result()

    def _read(self) -> None:
        try:
            for path, future in self._found.items():
                try:
                    digest = self._digest(path)
                except OSError as error:
                    future.set_exception(error)
                    continue
                if digest is None:
                    return
                future.set_result(digest)
        finally:
            for future in self._found.values():  # those that are not done: nobody is left waiting
                future.cancel()

    def _digest(self, path: Path) -> str | None:
        """None where the block ended before the file did."""
        held = path.stat()
        found = find_digest(path, held)
        if found is None and (found := self._digest_anew(path)) is not None:
            note_digest(path, held, found)
        return found

    def _digest_anew(self, path: Path) -> str | None:
        digest, piece = hashlib.sha256(), memoryview(bytearray(_PIECE))
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(piece):
                if self._stop.is_set():
                    return None
                digest.update(piece[:count])
        return digest.hexdigest()
