"""Every code: an explanation, a golden file, a place that emits it; and mistakes of newcomers, each with its message.

A golden file `CODE.edge` is checked as `edgec check` would, its first line may give definitions (`# check -D a=1`).
Codes that show only after the check have their text in `later/`, written by the test that provokes them.
"""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
from edgec.compiler.diagnostics.diagnostic import render
from edgec.compiler.diagnostics.explain import all_pages, codes, explanation, ways_out
from edgec.dsl import check_file

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CODES = sorted(path.stem for path in HERE.glob("[EW]*.edge"))
NEWCOMERS = sorted(path.stem for path in (HERE / "newcomer").glob("*.edge"))


def shown(path: Path) -> str:
    first = path.read_bytes().split(b"\n", 1)[0].decode("utf-8", errors="replace")
    words = shlex.split(first.removeprefix("# check")) if first.startswith("# check") else []
    _, diagnostics, sources = check_file(path, [word for word in words if word != "-D"])
    return "\n\n".join(render(diagnostic, sources) for diagnostic in diagnostics) + "\n"


@pytest.mark.parametrize("code", CODES)
def test_golden(code, monkeypatch, compare_golden):
    monkeypatch.chdir(HERE)
    text = shown(Path(f"{code}.edge"))
    assert f"[{code}]" in text
    compare_golden(HERE / f"{code}.txt", text)


@pytest.mark.parametrize("name", NEWCOMERS)
def test_newcomers_mistake(name, monkeypatch, compare_golden):
    monkeypatch.chdir(HERE / "newcomer")
    text = shown(Path(f"{name}.edge"))
    assert text.startswith("error[")
    compare_golden(HERE / "newcomer" / f"{name}.txt", text)


def test_every_code_has_a_golden_file():
    golden = {path.stem for path in [*HERE.glob("[EW]*.txt"), *(HERE / "later").glob("*.txt")]}
    assert set(codes()) - golden == set()
    assert golden - set(codes()) == set()


def test_every_code_is_explained():
    assert list(codes()) == sorted(codes())
    for code, row in codes().items():
        assert re.fullmatch("[EW]0[0-9]{3}", code)
        assert set(row) == {"title", "explanation"}
        assert row["title"] == row["title"].strip()
        assert not row["title"].endswith(".")
        assert len(row["explanation"].split()) >= 8, code
        assert explanation(code).startswith(f"{code}: ")


def test_every_code_is_emitted_and_every_emitted_code_known():
    text = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("compiler", "dsl", "passes", "targets")
        for path in (ROOT / folder).rglob("*.py")
    )
    emitted = set(re.findall(r"[\"']([EW]0[0-9]{3})[\"']", text))
    assert set(codes()) - emitted == set()
    assert emitted - set(codes()) == set()


def test_the_docs_hold_every_page(compare_golden):
    compare_golden(ROOT / "docs" / "errors.md", all_pages())


def test_the_table_is_sorted_by_code():
    table = (ROOT / "compiler" / "diagnostics" / "codes.toml").read_text(encoding="utf-8")
    written = re.findall(r"^\[([EW][0-9]{4})\]$", table, re.M)
    assert written == sorted(written)


def test_no_message_ends_with_a_full_stop_or_shows_a_repr():
    for path in [*HERE.glob("*.txt"), *(HERE / "newcomer").glob("*.txt"), *(HERE / "later").glob("*.txt")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.match(r"(error|warning|note)\[", line):
                message = line.split(": ", 1)[1]
                assert not message.endswith("."), path.name
                assert "object at 0x" not in line, path.name
                assert not re.match(r"[A-Z][a-z]", message), path.name


def test_every_mistake_has_a_way_out():
    """Where an error or a warning is raised without a help of its own, its code has one that fits every case."""
    silent = {}
    for folder in ("compiler", "dsl", "passes", "targets"):
        for path in (ROOT / folder).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (code := _raised(call)) is not None and code != "E0993":
                    silent.setdefault(code, f"{path.relative_to(ROOT)}:{call.lineno}")
    assert {code: place for code, place in silent.items() if code not in ways_out()} == {}
    assert set(ways_out()) <= set(codes())


def _raised(call: ast.AST) -> str | None:
    """The code that a call gives a diagnostic, if it gives no help."""
    if not isinstance(call, ast.Call) or not call.args or not isinstance(call.args[0], ast.Constant):
        return None
    code = call.args[0].value
    if not isinstance(code, str) or re.fullmatch(r"[EW]0[0-9]{3}", code) is None or len(call.args) == 1:
        return None
    named = {keyword.arg for keyword in call.keywords}
    return None if "help" in named or None in named or len(call.args) >= 5 else code


def test_what_is_shown_of_a_mistake_ends_with_the_way_out():
    for path in [*HERE.glob("*.txt"), *(HERE / "newcomer").glob("*.txt"), *(HERE / "later").glob("*.txt")]:
        found = re.split(r"^(?=(?:error|warning|note)\[)", path.read_text(encoding="utf-8"), flags=re.M)
        without = [one for one in found if one.startswith(("error", "warning")) and "= help: " not in one]
        assert not without, f"{path.name}: {without[0]}"
