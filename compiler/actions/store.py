"""A store that machines share: entries of the cache and notes, in a folder or in anything that fsspec opens.

    <root>/<kind>/3f/3f…/<files>, seal.json      an entry; the seal comes last, and without it there is none
    <root>/<kind>/3f/3f….note                    a note

What is read is held against the digests of its seal before the cache takes it. What does not fit is removed with a
warning (W0978), and whoever asked makes it again.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NoReturn

from ..diagnostics.diagnostic import Diagnostic, EdgecError, EngineError, fail
from ..diagnostics.warn import warn
from ..files import cache, seal
from .records import RESULT, Output

_LONGEST = 200  # letters of an error that are shown
_INSTALL = "`pip install 'edgec[farm]'`; a store such as s3:// needs its own package too (s3fs)"


class Store:
    """The store at `url`. Its calls raise EngineError (E0978) where the store cannot be read or written.

    What opens it is foreign code, and a cloud's errors are of its own types: each is told as what it says.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        if not url.strip():
            fail("E0978", "the store has no name", help="name a folder, or a URL that fsspec opens, with `--store`")
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            fail("E0974", "a store is opened by fsspec, which is not installed", help=_INSTALL)
        try:
            self._fs, root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            fail("E0974", f"no installed package opens the store `{url}`: {error}", help=_INSTALL)
        except Exception as error:
            self._fail("opened", error)
        self._root = PurePosixPath(str(root))

    def check_writable(self) -> None:
        """E0978 if nothing can be written there, or nobody else sees it; asked before any work."""
        if "memory" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,)):
            message = f"the store `{self.url}` is in the memory of one process, and actions have processes of their own"
            fail("E0978", message, help="name a folder, or a store that they all reach", kind=EngineError)
        place = self._root / ".edgec"
        with self._named("written"):
            self._fs.makedirs(str(self._root), exist_ok=True)
            self._fs.pipe_file(str(place), b"a store of edgec\n")

    def has(self, one: Output) -> bool:
        """Whether it is there, whole or not."""
        place = self._place(one)
        with self._named("read"):
            return bool(self._fs.exists(str(place if one.note else place / seal.SEAL)))

    def push(self, one: Output) -> None:
        """Put an entry or a note of the cache there; an entry that is there already is not written again."""
        place, here = self._place(one), cache.entry(one.kind, one.key)
        if one.note:
            here = here.with_name(here.name + cache.NOTE)
            if here.is_file():
                with self._named("written"):
                    self._fs.makedirs(str(place.parent), exist_ok=True)
                    self._fs.pipe_file(str(place), here.read_bytes())
            return
        if cache.find(one.kind, one.key) is None or self.has(one):
            return
        with self._named("written"):
            for name in [*seal.file_names(here), seal.SEAL]:
                there = place / Path(name).as_posix()
                self._fs.makedirs(str(there.parent), exist_ok=True)
                self._fs.put_file(str(here / name), str(there))

    def pull(self, one: Output) -> bool:
        """Take an entry or a note into the cache; False if the store has none that is whole."""
        if not one.note and cache.find(one.kind, one.key) is not None:
            return True
        if not self.has(one):
            return False
        return self._pull_note(one) if one.note else self._pull_entry(one)

    def pull_result(self, key: str) -> bool:
        """Take the result of an action into the cache, without its outputs."""
        return self.pull(Output(RESULT, key, note=True))

    def holds(self, key: str, outputs: Iterable[Output]) -> bool:
        """Whether the result of an action is there, and every output of it, whole or not."""
        return all(map(self.has, (*outputs, Output(RESULT, key, note=True))))

    def push_result(self, key: str, outputs: Iterable[Output]) -> None:
        """Put the outputs of an action there, then its result."""
        for one in outputs:
            self.push(one)
        self.push(Output(RESULT, key, note=True))

    def _pull_note(self, one: Output) -> bool:
        place = self._place(one)
        with self._named("read"):
            raw = self._fs.cat_file(str(place))
        sealed = _opened(raw)
        text = sealed.get("text") if sealed.get("note") == f"{one.kind}/{one.key}" else None
        if not isinstance(text, str):
            self._discard(one, "it is not whole")
            return False
        cache.write_note(one.kind, one.key, text)
        return True

    def _pull_entry(self, one: Output) -> bool:
        place = self._place(one)

        def fill(folder: Path) -> None:
            with self._named("read"):
                raw = self._fs.cat_file(str(place / seal.SEAL))
            files = _opened(raw).get("files")
            for name in files if isinstance(files, dict) else ():
                path = PurePosixPath(name)
                if path.is_absolute() or ".." in path.parts:
                    raise cache.Damaged(f"`{name}` leads out of it")
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                self._get(place / path, folder / path)
            (folder / seal.SEAL).write_bytes(raw)

        try:
            cache.adopt(one.kind, one.key, fill)
        except cache.Damaged as wrong:
            self._discard(one, str(wrong))
            return False
        return True

    def _get(self, there: PurePosixPath, here: Path) -> None:
        try:
            self._fs.get_file(str(there), str(here))
        except FileNotFoundError:
            raise cache.Damaged(f"`{here.name}` is missing") from None
        except Exception as error:
            self._fail("read", error)

    def _discard(self, one: Output, wrong: str) -> None:
        place = self._place(one)
        with self._named("written"):
            self._fs.rm(str(place), recursive=not one.note)
        message = f"`{one.kind}/{one.key}` of the store `{self.url}` is damaged ({wrong}); it is removed and made again"
        warn(Diagnostic("W0978", message, help="look at the disk the store lies on", severity="warning"))

    def _place(self, one: Output) -> PurePosixPath:
        place = self._root / one.kind / one.key[:2] / one.key
        return place.with_name(place.name + cache.NOTE) if one.note else place

    @contextlib.contextmanager
    def _named(self, done: str) -> Iterator[None]:
        try:
            yield
        except EdgecError:
            raise
        except Exception as error:
            self._fail(done, error)

    def _fail(self, done: str, error: Exception) -> NoReturn:
        system = getattr(error, "strerror", None)
        reason = system.lower() if isinstance(system, str) else _first_line(error)
        help = "make room there or give it the rights, or name another store with `--store`"
        fail("E0978", f"the store `{self.url}` cannot be {done}: {reason}", help=help, kind=EngineError)


def _first_line(error: Exception) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]} …"


def _opened(raw: bytes) -> dict[str, object]:
    try:
        return seal.opened_line(raw) or {}
    except ValueError:
        return {}


def absolute(url: str) -> str:
    """The store as every process names it: a relative folder is one of this process's own folder."""
    if not url.strip() or ":" in url:
        return url
    return os.path.abspath(os.path.expanduser(url))


@functools.cache
def open_store(url: str) -> Store:
    """The store at `url`, once for a process."""
    return Store(url)
