"""A file that cannot grow: the error names it, where it is to be, and the way out."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.files import cache, full_disk
from edgec.compiler.files.full_disk import DiskFull, names_the_file, writes
from edgec.compiler.oracle import oracle
from edgec.compiler.oracle.probes import Probes
from edgec.compiler.proof.half import rounded_to_half

GRAPH = '<ir_version: 10, opset_import: ["" : 24]> g (float[2] x) => (float[2] y) { y = Neg (x) }'
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def _full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(full_disk, "_is_full", lambda _folder: True)


@contextlib.contextmanager
def said(*words: str) -> Iterator[None]:
    with pytest.raises(DiskFull) as raised:
        yield
    (found,) = raised.value.diagnostics
    assert isinstance(raised.value, PlanError)
    assert found.code == "E0955"
    assert [word for word in words if word not in f"{found.message} {found.help}"] == []


def test_the_file_written_last_is_named_as_what_it_was_to_become(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "b.bin").write_text("b")
    (tmp_path / "a.bin").write_text("a")
    os.utime(tmp_path / "a.bin", (1, 1))
    words = "`/bundle/m/b.bin` cannot be written: no space left", "elsewhere"
    with said(*words), names_the_file(tmp_path, Path("/bundle"), "elsewhere"):
        raise FULL


def test_a_copy_and_a_file_that_is_removed_again_are_named_by_whoever_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.mkdir()
    outer.mkdir()
    (inner / "source").write_text("x")

    def refused(source: Path, _into: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(source))

    monkeypatch.setattr(shutil, "copyfile", refused)
    around, within = names_the_file(outer, Path("/bundle"), "outer"), names_the_file(inner, inner, "inner")
    with said("`/bundle/copy`", "outer"), around, within, writes(outer / "copy"):
        shutil.copyfile(inner / "source", outer / "copy")


def test_another_error_and_another_disk_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError), names_the_file(tmp_path, tmp_path, ""), writes(tmp_path / "x"):
        (tmp_path / "none").read_text()
    monkeypatch.setattr(full_disk, "_is_full", lambda _folder: False)
    with pytest.raises(OSError, match="No space") as raised, names_the_file(tmp_path, tmp_path, ""):
        raise FULL
    assert not isinstance(raised.value, DiskFull)


def test_an_entry_of_the_cache_is_named_and_a_note_can_be_done_without(tmp_path: Path, monkeypatch) -> None:
    def build(folder: Path) -> None:
        (folder / "q.bin").write_text("q")
        raise FULL

    final = cache.entry("solve", "ab" * 32)
    with said(f"`{final / 'q.bin'}`", "EDGEC_CACHE", "edgec cache prune"):
        cache.make("solve", "ab" * 32, build)
    assert not final.exists()
    monkeypatch.setattr(cache, "sync_one", lambda _path: (_ for _ in ()).throw(FULL))
    with contextlib.suppress(OSError):  # as everybody does who keeps a note
        cache.write_note("hashed", "ab" * 32, "text")


def test_a_full_disk_is_no_refusal_of_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs passed as `opened and not run`, as if no numbers suited them, where TMPDIR had no room for their files."""
    model = ir.from_proto(onnx.parser.parse_model(GRAPH))
    assert Probes(model).trials()

    def full(_model: ir.Model, _folder: Path) -> Path:
        raise FULL

    monkeypatch.setattr(oracle, "save_for_ort", full)
    with said("cannot be written"):
        Probes(model).trials()
    with said("cannot be written"):
        rounded_to_half(model, {"x": np.ones(2, np.float32)})
