"""The cache is input: whatever is done to an entry or a note, what is used afterwards is what was written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from edgec.compiler.diagnostics.diagnostic import Diagnostic
from edgec.compiler.diagnostics.warn import EdgecWarning, listening
from edgec.compiler.files import cache
from edgec.compiler.files.scratch import hold

KEY, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and a process that has said nothing yet."""
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_said", set())
    monkeypatch.setattr(cache, "_fitting", {})
    return tmp_path / "cache"


def build(content: str = "first") -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "a.bin").write_bytes(content.encode() * 100)
        (folder / "more").mkdir()
        (folder / "more" / "b.json").write_text("[1]")

    return fill


def held(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap(path: Path) -> None:
    other = cache.make("kind", OTHER, build("another")) / path.relative_to(cache.entry("kind", KEY))
    data = other.read_bytes()
    other.write_bytes(path.read_bytes())
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flip": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "empty": lambda path: path.write_bytes(b""),
    "not ASCII": lambda path: path.write_bytes(b"\xff"),
    "missing": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: path.symlink_to(path.rename(path.parent.parent / "x")),
    "swap": swap,
}


@pytest.mark.parametrize("file", ["a.bin", "more/b.json", "seal.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_made_again(file, damage):
    folder = cache.make("kind", KEY, build())
    whole = held(folder)
    before = (folder / file).read_bytes()
    DAMAGES[damage](folder / file)
    if (folder / file).is_file() and (folder / file).read_bytes() == before and not (folder / file).is_symlink():
        assert (damage, file) == ("swap", "more/b.json")  # which has the same bytes in both
        return
    said: list[Diagnostic] = []
    with listening(said.append):
        again = cache.make("kind", KEY, build())
    assert again == folder
    assert held(again) == whole
    if damage != "a link":  # to the same bytes: nothing is wrong with those
        assert [one.code for one in said] == ["W0955"]


def test_two_entries_that_were_exchanged_are_none():
    first, second = cache.make("kind", KEY, build()), cache.make("kind", OTHER, build("other"))
    first.rename(first.parent / "x")
    second.rename(first)
    (first.parent / "x").rename(second)
    with pytest.warns(EdgecWarning, match="the entry of another key"):
        assert cache.find("kind", KEY) is None
    assert cache.find("kind", OTHER) is None
    assert not first.exists()


def test_a_file_too_many_is_damage():
    folder = cache.make("kind", KEY, build())
    (folder / "weights.new").write_text("")
    with pytest.warns(EdgecWarning, match=r"`weights\.new` is no file of it"):
        assert cache.find("kind", KEY) is None


def test_a_whole_entry_is_read_once_in_a_process(monkeypatch):
    folder = cache.make("kind", KEY, build())
    read = []
    monkeypatch.setattr(cache.seal, "digest_file", lambda path: read.append(path.name) or cache.digest_file(path))
    assert cache.find("kind", KEY) == folder
    assert read == []  # written by this process
    cache._fitting.clear()
    assert cache.find("kind", KEY) == cache.find("kind", KEY) == folder
    assert read == ["a.bin", "b.json"]


def test_it_is_said_once_for_each_kind(golden_error):
    said: list[Diagnostic] = []
    with listening(said.append):
        for kind in ("solve", "solve", "ranges"):
            for key in (KEY, OTHER):
                (cache.make(kind, key, build()) / "a.bin").write_bytes(b"")
                assert cache.find(kind, key) is None
    assert [one.code for one in said] == ["W0955", "W0955"]
    golden_error("W0955", said[:1], hide={str(cache.cache_root()): "CACHE"})


@pytest.mark.parametrize("text", ["", "é\n", "x" * 5000])
def test_a_note_comes_back(text):
    assert cache.read_note("hashed", KEY) is None
    cache.write_note("hashed", KEY, "something else")
    cache.write_note("hashed", KEY, text)
    assert cache.read_note("hashed", KEY) == text


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"{}", b"[[]]", b"0" * 64, b'"x"\n', None, "cut", "flip", "another's"], ids=repr
)
def test_a_damaged_note_is_no_note(content):
    cache.write_note("hashed", KEY, "0" * 64)
    cache.write_note("hashed", OTHER, "1" * 64)
    path = cache._note("hashed", KEY)
    match content:
        case None:
            path.unlink()
            path.mkdir()
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "flip":
            path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
        case "another's":
            shutil.copy(cache._note("hashed", OTHER), path)
        case _:
            path.write_bytes(content)
    with pytest.warns(EdgecWarning, match="is not whole"):
        assert cache.read_note("hashed", KEY) is None
    assert not path.exists()
    cache.write_note("hashed", KEY, "2" * 64)
    assert cache.read_note("hashed", KEY) == "2" * 64


def test_an_error_leaves_nothing(root):
    with pytest.raises(ZeroDivisionError):
        cache.make("kind", KEY, lambda folder: (folder / "half").write_text("x") // 0)
    assert [path.name for path in root.rglob("*") if path.is_file()] == [".lock"]
    assert cache.find("kind", KEY) is None


def test_what_a_killed_process_began_is_removed(root):
    (root / ".scratch").mkdir(parents=True)
    dead, alive = (hold("edgec-solve-", root / ".scratch") for _ in range(2))
    (dead.work / "half").write_text("x")
    os.close(dead.descriptor)  # what the end of a process does
    cache.remove_scratch()
    assert list((root / ".scratch").iterdir()) == [alive.folder]


def test_a_cache_that_cannot_be_written_is_still_read(root):
    folder = cache.make("kind", KEY, build())
    cache.write_note("hashed", KEY, "x")
    cache._fitting.clear()
    for path in (root, *root.rglob("*")):
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        assert cache.find("kind", KEY) == folder
        assert cache.read_note("hashed", KEY) == "x"
    finally:
        for path in (root, *root.rglob("*")):
            path.chmod(0o700)
