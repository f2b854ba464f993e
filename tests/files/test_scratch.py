"""Where scratch folders lie."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from edgec.compiler.files import scratch


def test_the_same_parent_whatever_tmpdir_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of the folder is in what an engine makes (docs/qnn.md)."""
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setattr(scratch, "_SHARED", shared)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch.scratch_folder("qnn", scratch.steady_parent(tmp_path)) as folder:
        assert folder.is_relative_to(shared)
    assert list(shared.iterdir()) == []


def test_another_disk_or_a_folder_that_is_not_there_is_no_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scratch.steady_parent(Path("/proc")) is None
    monkeypatch.setattr(scratch, "_SHARED", tmp_path / "none")
    assert scratch.steady_parent(tmp_path) is None


def test_what_killed_processes_left_goes_from_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parents = [tmp_path / "own", tmp_path / "shared"]
    for parent in parents:
        left = parent / "edgec-qnn-scratch-abcdefgh"
        left.mkdir(parents=True)
        (left / "lock").write_text(f"{scratch._MAGIC}1\n")
    monkeypatch.setattr(tempfile, "tempdir", str(parents[0]))
    monkeypatch.setattr(scratch, "_SHARED", parents[1])
    scratch.sweep_temporary()
    assert [list(parent.iterdir()) for parent in parents] == [[], []]
