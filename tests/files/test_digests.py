"""Digests of sources, read beside the work."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest
from edgec.compiler.files import cache, noted_digest
from edgec.compiler.files.digests import Digests


def test_digests_are_those_of_the_files(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("empty", "one", "large")]
    for path, size in zip(files, (0, 1, 9 << 20), strict=True):
        path.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    with Digests(files) as digests:
        found = [digests.of(path) for path in reversed(files)]
    assert found == [hashlib.sha256(path.read_bytes()).hexdigest() for path in reversed(files)]


def test_a_file_that_is_gone_is_an_error_where_its_digest_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"1")
    with Digests([tmp_path / "gone", tmp_path / "there"]) as digests:
        assert digests.of(tmp_path / "there") == hashlib.sha256(b"1").hexdigest()
        with pytest.raises(FileNotFoundError):
            digests.of(tmp_path / "gone")


def test_nobody_waits_for_a_file_whose_digest_is_no_longer_wanted(tmp_path: Path) -> None:
    endless = Path("/dev/zero")
    if not endless.exists():
        pytest.skip("no file without an end here")
    start = time.monotonic()
    with pytest.raises(ValueError, match="failed"), Digests([endless]):
        raise ValueError("failed")
    assert time.monotonic() - start < 30


def test_a_file_that_was_hashed_before_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(noted_digest, "CLOCK_STEP", -1.0)
    path = tmp_path / "weights"
    path.write_bytes(b"1")
    first = noted_digest.noted_digest(path)
    monkeypatch.setattr(Digests, "_digest_anew", lambda *_: pytest.fail("read again"))
    with Digests([path]) as digests:
        assert digests.of(path) == first


def test_who_wants_a_digest_meanwhile_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, begun = tmp_path / "weights", threading.Event()
    path.write_bytes(b"1")

    def slowly(_self: Digests, _path: Path) -> str:
        begun.wait(10)
        return "theirs"

    monkeypatch.setattr(Digests, "_digest_anew", slowly)
    monkeypatch.setattr(noted_digest, "CLOCK_STEP", 1e9)  # so that nothing is noted
    with Digests([path]):
        threading.Timer(0.05, begun.set).start()
        assert noted_digest.noted_digest(path) == "theirs"
    assert noted_digest.noted_digest(path) == hashlib.sha256(b"1").hexdigest()  # nobody is reading any more


def test_who_waits_for_a_reader_that_was_stopped_reads_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"1")
    monkeypatch.setattr(Digests, "_digest_anew", lambda *_: None)
    with Digests([path]):
        assert noted_digest.noted_digest(path) == hashlib.sha256(b"1").hexdigest()


def test_a_finished_file_is_hashed_once_and_again_where_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"1")
    noted_digest.hash_beside(path)
    path.write_bytes(b"23")  # another size: what is hashed meanwhile is not this
    assert noted_digest.digest_of_finished(path) == hashlib.sha256(b"23").hexdigest()
    monkeypatch.setattr(cache, "digest_file", lambda _: "once")
    noted_digest.hash_beside(path)
    noted_digest._under_way[noted_digest._key(path, path.stat())].result(10)
    monkeypatch.setattr(cache, "digest_file", lambda _: "again")
    assert [noted_digest.digest_of_finished(path) for _ in range(2)] == ["once", "again"]
