"""The cache listed, checked and pruned; and nothing of somebody's removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import edgec
import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import EngineError
from edgec.compiler.files import cache
from edgec.compiler.files.cache_contents import contents, prune, remove_damaged

KEYS = [f"{number:02x}" * 32 for number in range(6)]
DAY = 86400


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with three entries of 1000 bytes and a note, used 4, 3, 2 and 0 days ago, and things of somebody's."""
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    for days, (kind, key) in zip((4, 3, 2), (("solve", KEYS[0]), ("solve", KEYS[1]), ("awq", KEYS[2])), strict=True):
        folder = cache.make(kind, key, lambda work: (work / "a.bin").write_bytes(bytes(1000)) and None)
        os.utime(folder, (time.time() - days * DAY,) * 2)
    cache.write_note("hashed", KEYS[3], "x")
    for name in ("mine/notes.txt", "solve/00/thesis.txt", "solve/ab/notes", "photo.jpg"):
        (tmp_path / "cache" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "cache" / name).write_text("precious")
    return tmp_path / "cache"


def precious(root: Path) -> int:
    return sum(path.read_bytes() == b"precious" for path in root.rglob("*") if path.is_file())


def test_what_it_holds(capsys, root):
    assert [(held.kind, held.key) for held in contents()] == [
        ("solve", KEYS[0]),
        ("solve", KEYS[1]),
        ("awq", KEYS[2]),
        ("hashed", KEYS[3]),
    ]
    assert main(["cache", "--json"]) == 0
    kinds = json.loads(capsys.readouterr().out)["kinds"]
    assert {kind: facts["entries"] for kind, facts in kinds.items()} == {"awq": 1, "hashed": 1, "solve": 2}
    assert kinds["solve"]["bytes"] > 2000
    assert main(["cache"]) == 0
    assert "  solve        2       0.00 MB  used between 4 d and 3 d ago" in capsys.readouterr().out


def test_check_removes_what_is_damaged(capsys, root):
    assert main(["cache", "check"]) == 0
    assert capsys.readouterr().out == "4 entries checked, none damaged\n"
    (cache.entry("solve", KEYS[1]) / "a.bin").write_bytes(bytes(999))
    cache._note("hashed", KEYS[3]).write_text("")
    old = cache.entry("ranges", KEYS[4])  # of an edgec without seals
    old.mkdir(parents=True)
    (old / "seen.safetensors").write_text("x")
    assert main(["cache", "check"]) == 3
    shown = capsys.readouterr()
    assert shown.out == "5 entries checked, 3 damaged, removed\n"
    assert shown.err.count("warning[W0955]") == 3
    assert [held.key for held in contents()] == [KEYS[0], KEYS[2]]
    assert precious(root) == 4


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--older", "9d"], 4),
        (["--older", "60h"], 2),
        (["--older", "1w"], 4),
        (["--max-size", "2.5KB"], 2),
        (["--max-size", "0B"], 0),
        (["--older", "84h", "--max-size", "1MiB"], 3),
    ],
)
def test_prune_removes_the_longest_unused(words, left, root):
    assert main(["cache", "prune", *words]) == 0
    assert [held.key for held in contents()] == KEYS[4 - left : 4]
    assert precious(root) == 4


@pytest.mark.parametrize("words", [[], ["--older", "30"], ["--older", "-1d"], ["--max-size", "5 potatoes"]])
def test_prune_says_what_it_takes(words, capsys):
    with pytest.raises(SystemExit) as left:
        main(["cache", "prune", *words])
    assert left.value.code == 2
    assert "edgec cache: " in capsys.readouterr().err


def test_a_use_makes_an_entry_young():
    cache._fitting.clear()
    assert cache.find("solve", KEYS[0]) is not None
    assert contents()[0].key == KEYS[1]


def test_it_is_not_pruned_while_another_process_reads_it(golden_error, root):
    reader = "import sys\nfrom edgec.compiler.files import cache\n"
    reader += "cache.find('solve', sys.argv[1])\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", reader, KEYS[0]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(EngineError) as raised:
            prune(older=0)
        golden_error("E0956", raised.value, hide={str(root): "CACHE"})
        process.communicate("\n")
    assert len(prune(older=-1)) == 4


def test_from_python(root):
    assert edgec.cache.path == root
    assert [held.bytes > 0 for held in edgec.cache.contents()] == [True] * 4
    assert edgec.cache.check() == remove_damaged() == []
    assert [held.key for held in edgec.cache.prune(older=3.5 * DAY)] == KEYS[:1]
    assert "3 entries" in repr(edgec.cache)
