"""Every plan ends, whatever it names and however it is written; and time grows with its size, not faster."""

from __future__ import annotations

import glob
import os
import time
from pathlib import Path

import pytest
from edgec.compiler.diagnostics.diagnostic import render
from edgec.dsl import bounded_glob, check_file, table_driver
from edgec.dsl.bounded_glob import BoundedGlob, TooMany
from edgec.dsl.builder import TreeBuilder, from_tree
from edgec.dsl.lets import MAX_VALUES
from edgec.dsl.parser import by_lark
from edgec.dsl.plan_text import MAX_BYTES, PlanText
from edgec.dsl.scanner import KEYWORDS, scan

ROOT = Path(__file__).resolve().parents[2]
HOST = "device host\n"


def codes(text: str, path: str = "p.edge") -> list[str]:
    return [found.code for found in check_file(Path(path), text=text)[1]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_lets_that_double_are_told():
    doubling = "".join(f"let a{i} = [a{i + 1}, a{i + 1}]\n" for i in range(26)) + "let a26 = 1\n"
    assert codes(HOST + doubling) == ["E0012"]
    wide = "let one = [" + ", ".join(["1"] * 1000) + "]\n"
    many = "".join(f"let b{i} = [one]\n" for i in range(MAX_VALUES // 1000 + 10))
    assert codes(HOST + wide + many) == ["E0012"]


def test_lets_that_nest_deeply_are_told_and_chains_are_not():
    assert codes(HOST + "".join(f"let a{i} = [a{i + 1}]\n" for i in range(400)) + "let a400 = 1\n")[0] == "E0012"
    assert codes(HOST + "".join(f"let a{i} = hf(a{i + 1})\n" for i in range(400)) + 'let a400 = "x"\n')[0] == "E0012"
    chain = HOST + "".join(f"let a{i} = a{i + 1}\n" for i in range(9000)) + "let a9000 = 7\n"
    assert codes(chain) == ["W0303"]
    circle = HOST + "".join(f"let a{i} = a{i + 1}\n" for i in range(3000)) + "let a3000 = a2990\n"
    assert codes(circle) == ["E0111"]


def test_includes_may_nest_as_deep_as_they_like():
    for i in range(900):
        Path(f"{i}.edge").write_text(f'include "{i + 1}.edge"\nlet a{i} = {i}\n')
    Path("900.edge").write_text(HOST)
    plan, found, _ = check_file(Path("0.edge"))
    assert [one.code for one in found] == ["W0303"]
    assert plan is not None
    assert list(plan.defines) == [f"a{i}" for i in reversed(range(900))]  # each in the place of its `include`


def test_pipes_devices_folders_and_circles_of_links_are_told():
    os.mkfifo("pipe.edge")
    os.mkdir("folder.edge")
    Path("x").symlink_to("y")
    Path("y").symlink_to("x")
    for name, what in (("pipe.edge", "a named pipe"), ("/dev/zero", "a device"), ("folder.edge", "a folder")):
        (told,) = check_file(Path(name))[1]
        assert (told.code, told.message) == ("E0302", f"`{name}` is {what}, not a plan")
        assert codes(f'{HOST}include "{name}"\n') == ["E0302"]
    assert codes(f'{HOST}include "x"\n') == ["E0302"]
    assert codes(f'{HOST}use "pipe.edge"\n') == ["E0302"]
    assert codes(f'{HOST}evaluation {{ text = "pipe.edge" }}\n') == ["E0302"]


@pytest.mark.parametrize("text", ["\f", "\v", "\x1c", "\x85", "\u2028", "\f\f plan", "let a = 1\n\f\nlet b = 2"])
def test_blanks_of_python_that_are_none_here(text):
    assert "E0002" in codes(text)


def test_a_file_with_cr_alone_has_lines():
    text = "device host\rlet a = 1\rlet a = 2\r"
    _, found, sources = check_file(Path("p.edge"), text=text)
    (twice,) = (one for one in found if one.code == "E0109")
    assert str(twice.at and twice.at.span) == "p.edge:3:5"
    assert "3 | let a = 2\n" in render(twice, sources)


@pytest.mark.parametrize(
    ("line", "marked"),
    [
        ('let 名 = "x"', '1 | let 名 = "x"\n  |     ^^\n'),
        ('let a = "日本" $', '1 | let a = "日本" $\n  |                ^\n'),
        ('let a = "e\u0301e\u0301" $', '1 | let a = "e\u0301e\u0301" $\n  |              ^\n'),
        ("let a =\t$", "1 | let a =    $\n  |            ^\n"),
    ],
)
def test_marks_stand_under_what_they_mark(line, marked):
    _, found, sources = check_file(Path("p.edge"), text=line)
    assert marked in render(found[0], sources)


def tree(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("x")


PATTERNS = [
    "*.txt",
    "**/*.txt",
    "a/**",
    "a/*/c.txt",
    "a/**/c.txt",
    "?.txt",
    "[ab].txt",
    "**",
    "a/.h*",
    "**/.hid*/*",
    "*",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_glob_finds_what_python_s_finds(pattern, folder):
    tree("a.txt", "b.txt", "cc.txt", "a/c.txt", "a/b/c.txt", "a/b/d/c.txt", "a/.hid/c.txt", ".hid/e.txt", "a/b.c/x")
    theirs = sorted(name for name in glob.glob(str(folder / pattern), recursive=True) if os.path.isfile(name))
    assert [str(path) for path in BoundedGlob().files(folder / pattern)] == theirs


def test_a_glob_does_not_walk_the_disk(monkeypatch, golden_error):
    tree(*(f"a/{i}/b/{j}.txt" for i in range(20) for j in range(5)))
    Path("a/loop").symlink_to(".")
    assert len(BoundedGlob().files(Path("a/**/*.txt"))) == 100
    with pytest.raises(TooMany):
        BoundedGlob(left=100).files(Path("a/**/*.zzz"))
    monkeypatch.setattr(bounded_glob, "MOST", 100)
    monkeypatch.setattr(BoundedGlob.__init__, "__defaults__", (100, *BoundedGlob.__init__.__defaults__[1:]))
    _, found, sources = check_file(Path("p.edge"), text=HOST + 'evaluation { text = "a/**/*.zzz" }\n')
    golden_error("E0310", found, sources, hide={"100 files": "100000 files"})


def corpus() -> list[str]:
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples").rglob("*.edge"))]
    return texts + [path.read_bytes().decode("utf-8", "replace") for path in sorted((ROOT / "tests").rglob("*.edge"))]


def test_the_driver_makes_what_lark_makes():
    """Every statement in the tree, spans included: `repr` of a node leaves them out, so they are listed."""
    read = 0
    for text in corpus():
        source = PlanText("p.edge", text)
        for chunk in scan(source).chunks:
            if chunk.broken or not text[chunk.start :].startswith(KEYWORDS):
                continue
            tree_, problems = None, []
            tree_ = by_lark(source, chunk, "plan", problems)
            ours: list = []
            made = parser_driver().parse(text, chunk.start, chunk.stop, "plan", TreeBuilder(source, ours))
            assert (made is None) == (tree_ is None)
            if made is not None:
                theirs = from_tree(tree_, TreeBuilder(source, problems))
                assert (listed(made), ours) == (listed(theirs), problems)
                read += 1
    assert read > 500


def parser_driver() -> table_driver.TableDriver:
    from edgec.dsl.parser import _driver

    return _driver()


def listed(node: object) -> object:
    if isinstance(node, (list, tuple)):
        return [listed(one) for one in node]
    if hasattr(node, "span"):
        return [type(node).__name__, *(listed(value) for value in vars(node).values())]
    return node


LARGE = {
    "lets": lambda n: "".join(f"let n{i} = 1\n" for i in range(n // 13)),
    "a list": lambda n: "let a = [" + ",".join(["1"] * (n // 2)) + "]\n",
    "strings": lambda n: "let a = [" + ",".join(['"abcdefg"'] * (n // 10)) + "]\n",
    "unknown models": lambda n: "".join(f"deploy m{i} on cpu as mnn\n" for i in range(n // 26)),
    "unknown keys": lambda n: "model m {\n" + "".join(f"contex{i} = 1\n" for i in range(n // 15)) + "}\n",
    "one key": lambda n: "model m {\n" + "a = 1\n" * (n // 6) + "}\n",
    "unknown passes": lambda n: "pipeline p {\n" + "".join(f"quant{i}(a = 1)\n" for i in range(n // 18)) + "}\n",
    "requirements": lambda n: "require {\n" + "bundle.size <= 3 GiB\n" * (n // 21) + "}\n",
    "a chain": lambda n: "".join(f"let a{i} = a{i + 1}\n" for i in range(n // 18)),
    "twice": lambda n: "let a = 1\n" * (n // 10),
    "comments": lambda n: "# x\n" * (n // 4),
    "mistakes": lambda n: "let a = $\n" * (n // 10),
}


@pytest.mark.parametrize("kind", LARGE)
def test_time_grows_with_the_size(kind):
    """Four times the text takes about four times as long: below eight, where a square would be sixteen."""

    def seconds(size: int) -> float:
        text = HOST + LARGE[kind](size)
        assert len(text) <= MAX_BYTES
        best = 9.0
        for _ in range(2):
            start = time.process_time()
            check_file(Path("p.edge"), text=text)
            best = min(best, time.process_time() - start)
        return best

    seconds(1 << 12)
    small, large = seconds(24 << 10), seconds(96 << 10)
    assert large < 8 * small + 0.05
    assert large < 8  # a tenth of that and less where nothing else runs
