"""A bundle appears whole or not at all, whatever happens to the compile."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from edgec.compiler.bundle.manifest import hash_files, load_manifest
from edgec.compiler.bundle.write import is_bundle, rejected_path, write_bundle
from edgec.compiler.diagnostics.diagnostic import Diagnostic, PlanError, RequirementError, explain_failure
from edgec.compiler.files import atomic_swap as exchange
from edgec.compiler.verify.verify_bundle import file_problems

from .conftest import fill

# Writes a bundle and dies at the given file system event of it (files opened, renamed, removed, libraries called).
VICTIM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import fill
from edgec.compiler.bundle import write as bundle
from edgec.compiler.files import atomic_swap as exchange
from edgec.compiler.bundle import manifest
import ctypes, jsonschema
manifest.problems(manifest.schema())  # what is imported late must not count
if sys.argv[4] == "two renames":
    exchange._exchange = lambda a, b: False
left, armed = int(sys.argv[3]), False
def watch(event, arguments):
    global left
    if armed and event.split(".")[0] in ("open", "os", "shutil", "ctypes", "tempfile"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
armed = True
bundle.write_bundle(Path(sys.argv[2]), lambda scratch: fill(scratch, "new"))
armed = False
print(left)
"""
ENOUGH = 10_000


def victim(final: Path, event: int, how: str = "exchange") -> subprocess.CompletedProcess[str]:
    arguments = [str(Path(__file__).parent), str(final), str(event), how]
    return subprocess.run([sys.executable, "-c", VICTIM, *arguments], capture_output=True, text=True, check=False)


def events(final: Path, how: str = "exchange") -> int:
    """How many events one whole write has."""
    run = victim(final, ENOUGH, how)
    assert run.returncode == 0, run.stderr
    return ENOUGH - int(run.stdout)


def content(final: Path) -> str:
    """What a complete bundle holds."""
    assert file_problems(load_manifest(final)) == []
    return (final / "m" / "cpu0.onnx").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "old"])
def test_killed_at_any_moment(tmp_path, make, before):
    if before == "old":
        make(tmp_path / "count" / "demo", "old")
    total = events(tmp_path / "count" / "demo")
    assert total > 20
    seen = set()
    for event in range(1, total + 1, 2 if before == "nothing" else 1):
        final = tmp_path / str(event) / "demo"
        if before == "old":
            make(final, "old")
        killed = victim(final, event)
        assert killed.returncode in (-signal.SIGKILL, 0), killed.stderr
        seen.add(content(final) if final.exists() else "nothing")
        make(final, "again")  # the next compile is not disturbed, and tidies up
        assert content(final) == "again"
        assert [path.name for path in final.parent.iterdir()] == ["demo"]
    assert seen == {before, "new"}


@pytest.mark.slow
def test_killed_where_directories_cannot_be_exchanged(tmp_path, make):
    """For an instant the old bundle lies aside; the next compile, also a failing one, puts it back."""
    make(tmp_path / "count" / "demo", "old")
    seen = set()
    total = events(tmp_path / "count" / "demo", "two renames")
    for event in range(total - 50, total + 2):  # the renames and what follows; what is before, above
        final = tmp_path / str(event) / "demo"
        make(final, "old")
        victim(final, event, "two renames")
        seen.add(content(final) if final.exists() else "aside")
        with pytest.raises(ZeroDivisionError):
            write_bundle(final, lambda scratch: 1 // 0)
        assert content(final) in ("old", "new")
        assert [path.name for path in final.parent.iterdir()] == ["demo"]
    assert seen == {"old", "new", "aside"}


def test_an_error_leaves_the_old_bundle_and_nothing_else(tmp_path, make):
    final = tmp_path / "demo"

    def broken(scratch):
        (scratch / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bundle(final, broken)
    assert list(tmp_path.iterdir()) == []
    make(final)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(final, broken)
    assert content(final) == "abc"
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_new_bundle_takes_the_place_of_the_old(tmp_path, make, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(exchange, "_exchange", lambda a, b: False)
    final = tmp_path / "deep" / "demo"
    make(final, "one")
    make(final, "two")
    assert content(final) == "two"
    assert list(final.parent.iterdir()) == [final]


def test_it_is_readable_for_who_may_read_new_directories(tmp_path, make):
    mask = os.umask(0o022)
    try:
        make(tmp_path / "demo")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "demo").stat().st_mode) == 0o755


def test_a_link_is_followed_and_stays(tmp_path, make):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    make(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == "abc"


@pytest.mark.parametrize("name", ["notes.txt", "m/more.bin", "empty/", "m/link"])
def test_what_somebody_put_into_a_bundle_stays(tmp_path, make, name):
    final = tmp_path / "demo"
    make(final)
    if name == "m/link":
        (final / name).symlink_to(tmp_path)
    elif name == "empty/":
        (final / name).mkdir()
    else:
        (final / name).write_text("precious")
    before = sorted(final.rglob("*"))
    with pytest.raises(PlanError, match=f"what is no file of the bundle: `{name}`") as caught:
        make(final, "new")
    assert caught.value.diagnostics[0].code == "E0906"
    assert sorted(final.rglob("*")) == before
    assert (final / "m" / "cpu0.onnx").read_text() == "abc"


def test_a_manifest_of_two_words_gives_no_right_to_other_files(tmp_path, make):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text('{"format": "edgec.bundle"}')
    for number in range(9):
        (tmp_path / "mine" / f"{number}.txt").write_text("precious")
    with pytest.raises(PlanError, match=r"`0\.txt`, .*`5\.txt` and 3 more"):
        make(tmp_path / "mine")
    assert len(list((tmp_path / "mine").iterdir())) == 10


def test_a_file_that_came_while_the_bundle_was_made_stays(tmp_path, make):
    final = tmp_path / "demo"
    make(final)

    def build(scratch):
        fill(scratch, "new")
        (final / "notes.txt").write_text("precious")

    with pytest.raises(PlanError, match=r"`notes\.txt`"):
        write_bundle(final, build)
    assert (final / "notes.txt").read_text() == "precious"
    assert (final / "m" / "cpu0.onnx").read_text() == "abc"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_names_like_those_of_a_compile_are_somebody_s(tmp_path, make):
    """Hidden files and folders beside the output: not one is edgec's because of its name."""
    names = [".demo.lock", ".demo.partial-x/a", ".demo.old/a", "demo.partial/a", ".edgec-partial-mine/a"]
    names += [".edgec-partial-mine/lock", ".edgec-partial-x1y2z3/work/a", ".edgec-partial-file"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("precious")
    for _ in range(2):
        make(tmp_path / "demo")
    assert all((tmp_path / name).read_text() == "precious" for name in names)
    make(tmp_path / "demo.partial-b")
    make(tmp_path / "demo")
    assert content(tmp_path / "demo.partial-b") == "abc"


def test_somebody_s_bundle_of_the_rejected_name_stays(tmp_path, make):
    final = tmp_path / "demo"
    make(rejected_path(final), "mine")
    write_bundle(final, lambda scratch: fill(scratch, "new"), rejectable=False)
    assert content(rejected_path(final)) == "mine"
    with pytest.raises(PlanError, match="is a bundle that no `require` refused; a compile does not replace it"):
        make(final)
    assert content(rejected_path(final)) == "mine"


@pytest.mark.parametrize(
    ("name", "code"),
    [("/", "E0906"), ("b\udcff", "E0955"), ("x" * 300, "E0955"), ("loop", "E0955"), ("x" * 250, None), ("a\nb", None)],
)
def test_odd_names(tmp_path, make, name, code):
    (tmp_path / "loop").symlink_to("loop")
    if code is None:
        write_bundle(tmp_path / name, fill, rejectable=False)
        assert content(tmp_path / name) == "abc"
        return
    with pytest.raises((PlanError, OSError)) as caught:
        make(tmp_path / name)
    error = caught.value if isinstance(caught.value, PlanError) else explain_failure(caught.value)
    assert error.diagnostics[0].code == code


@pytest.mark.parametrize("what", ["file", "directory", "its rejected name"])
def test_nothing_else_is_replaced(tmp_path, make, golden_error, what):
    final = tmp_path / "demo"
    place = rejected_path(final) if what == "its rejected name" else final
    if what == "file":
        place.write_text("precious")
    else:
        place.mkdir()
        (place / "thesis.txt").write_text("precious")
    with pytest.raises(PlanError) as caught:
        make(final)
    if what == "directory":
        golden_error("E0906", caught.value, hide={str(tmp_path): "TMP"})
    assert "does not replace it" in str(caught.value)
    assert (place if place.is_file() else place / "thesis.txt").read_text() == "precious"


def test_an_empty_directory_is_taken(tmp_path, make):
    (tmp_path / "demo").mkdir()
    make(tmp_path / "demo")
    assert content(tmp_path / "demo") == "abc"


def test_a_bundle_whose_requirement_breaks_is_kept_aside(tmp_path, make):
    final = tmp_path / "demo"
    make(final, "good")

    def build(scratch):
        row = {"line": "size <= 1 B", "measured": 2, "baseline": 0, "holds": False}
        fill(scratch, "bad", measured={"perplexity": {}, "baseline": {}, "requires": [row]})
        raise RequirementError(Diagnostic("E0950", "too big"))

    for _ in range(2):  # a second one replaces the first
        with pytest.raises(RequirementError):
            write_bundle(final, build)
        assert content(final) == "good"
        assert content(rejected_path(final)) == "bad"
        assert {path.name for path in tmp_path.iterdir()} == {"demo", "demo.rejected"}
    make(final, "better")
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_two_compiles_to_one_name(tmp_path, make, golden_error):
    final = tmp_path / "demo"

    def build(_scratch):
        make(final)

    with pytest.raises(PlanError) as caught:
        write_bundle(final, build)
    golden_error("E0907", caught.value, hide={str(tmp_path): "TMP", str(os.getpid()): "4242"})
    assert list(tmp_path.iterdir()) == []
    make(final)  # the lock ended with its compile


def test_the_same_inputs_give_the_same_bytes(tmp_path, make):
    make(tmp_path / "a")
    make(tmp_path / "b")
    for path in sorted((tmp_path / "a").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_hashes_are_of_all_files_by_path(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_bytes(b"")
    (tmp_path / "a").write_bytes(b"abc")
    found = hash_files(tmp_path)
    assert list(found) == ["a", "b/x"]
    assert found["a"] == {"sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "size": 3}
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(ValueError, match="is a symbolic link"):
        hash_files(tmp_path)


def test_what_counts_as_a_bundle(tmp_path, make):
    assert not is_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text('{"name": "a web app"}')
    assert not is_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    assert not is_bundle(tmp_path)
    make(tmp_path / "demo")
    assert is_bundle(tmp_path / "demo")
