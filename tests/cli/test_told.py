"""A warning of something found on the way (W0955) is shown once, and stands in --json, the manifest and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import MODELS, edgec

PLAN = 'device host\nmodel m {{ source = hf("{0}/pycode-qwen2") context = 32 }}\ndeploy m on cpu as ort\n'


def damaged(cache: Path) -> None:
    (note,) = (cache / "texts").rglob("*.note")
    note.write_bytes(note.read_bytes()[:-40])


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "p.edge"
    path.write_text(PLAN.format(MODELS))
    assert edgec("check", path).returncode == 0
    damaged(tmp_path / "cache")
    return path


def test_a_damaged_entry_stands_in_all_that_a_compile_writes(plan: Path, tmp_path: Path) -> None:
    done = edgec("compile", plan, "-o", tmp_path / "b", "--json")
    assert done.stderr.count("W0955") == 1
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert json.loads(done.stdout)["warnings"] == manifest["warnings"]
    (row,) = manifest["warnings"]
    assert row["code"] == "W0955"
    assert str(tmp_path) not in json.dumps(manifest)
    report = (tmp_path / "b" / "report.html").read_text()
    assert "W0955" in report
    assert str(tmp_path) not in report


def test_a_damaged_entry_stands_in_what_check_and_prove_print(plan: Path, tmp_path: Path) -> None:
    done = edgec("check", plan, "--json")
    assert (done.returncode, done.stderr.count("W0955")) == (0, 1)
    assert [row["code"] for row in json.loads(done.stdout)["diagnostics"]] == ["W0955"]
    assert json.loads(edgec("check", plan, "--json").stdout)["diagnostics"] == []
    assert json.loads(edgec("prove", plan, "--json").stdout) == {"ok": True, "rows": [], "warnings": []}
