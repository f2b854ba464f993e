"""docs/python.md: its code runs from top to bottom, and it lists every name of `edgec` and of `edgec.api`."""

from __future__ import annotations

import re
from pathlib import Path

import edgec
import edgec.api
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "python.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_examples_of_the_page(tmp_path, monkeypatch, capsys):
    (tmp_path / "models").symlink_to(ROOT / "examples" / "models")
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.S))
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), {})
    shown = re.search(r"# (<compiled .*, )[\d.]+ MB>", code)
    assert shown is not None
    out = capsys.readouterr().out.splitlines()
    assert any(line.startswith(shown[1]) for line in out)
    assert "m: loading models/pycode-qwen2" in out


@pytest.mark.parametrize("module", [edgec, edgec.api], ids=lambda module: module.__name__)
def test_the_page_names_everything(module):
    written = set(re.findall(r"`(\w+)[`(]", TEXT))
    assert [name for name in module.__all__ if name not in written and name != "Diagnostic"] == []


def test_the_page_names_nothing_else_of_the_surface():
    table = TEXT[TEXT.index("| for | names |") :].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(edgec.api.__all__)


PLUGIN_CODE = [*(ROOT / "examples").rglob("*.py"), *(ROOT / "docs").glob("writing-*.md")]


@pytest.mark.parametrize("path", PLUGIN_CODE, ids=lambda path: path.name)
def test_plug_ins_and_pages_about_them_import_the_stable_surface_only(path):
    text = path.read_text(encoding="utf-8")
    places = set(re.findall(r"^\s*(?:from|import) (edgec(?:\.[\w.]+)?)\b", text, re.M)) - {"edgec"}
    assert places <= {"edgec.api"}
