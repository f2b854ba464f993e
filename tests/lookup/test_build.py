"""The library of kernels: built once, kept, and in words why there is none."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess

import pytest
from edgec.compiler.kernels import build
from edgec.compiler.kernels.build import LIBRARY, SCRIPT, build_into, library


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Nothing built here computes: most of a build is optimisation."""
    monkeypatch.setattr(build, "_FLAGS", ("-O0", *build._FLAGS[1:]))


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """library(), asked again, with a cache of its own."""
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    return library.__wrapped__


def test_it_is_built_once(anew, monkeypatch):
    first = anew()
    if first.path is None:
        pytest.skip(first.reason)
    monkeypatch.setattr(build, "_build", lambda *_: pytest.fail("built again"))
    assert anew().path == first.path


def test_a_damaged_library_is_built_again(anew):
    first = anew()
    if first.path is None:
        pytest.skip(first.reason)
    good = first.path.read_bytes()
    first.path.chmod(0o644)
    first.path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    build.find.__globals__["_fitting"].clear()
    with pytest.warns(Warning, match="W0955"):
        again = anew()
    assert again.path is not None
    assert again.path.read_bytes() == good


@pytest.mark.parametrize(
    ("compiler", "reason"), [("no-such-compiler", "there is no C compiler"), ("false", "`false` does not build them")]
)
def test_without_a_compiler_there_is_none(anew, monkeypatch, compiler, reason):
    monkeypatch.setenv("CC", compiler)
    found = anew()
    assert found.path is None
    assert reason in found.reason


def test_a_library_for_another_processor_is_refused(anew, monkeypatch):
    compiler = "aarch64-linux-gnu-gcc" if os.uname().machine == "x86_64" else "x86_64-linux-gnu-gcc"
    if shutil.which(compiler) is None:
        pytest.skip(f"not installed: {compiler}")
    monkeypatch.setenv("CC", compiler)
    found = anew()
    assert found.path is None
    assert f"`{compiler}` builds for aarch64, this machine is {platform.machine()}" in found.reason
    assert "`CC`" in found.help


def test_the_folder_of_a_bundle_builds_by_hand(tmp_path):
    if not build_into(tmp_path):
        pytest.skip(library().reason)
    (tmp_path / LIBRARY).unlink()
    subprocess.run([str(tmp_path / SCRIPT)], check=True)
    assert (tmp_path / LIBRARY).is_file()
    assert not list(tmp_path.glob("*.o"))
    assert ctypes.CDLL(str(tmp_path / LIBRARY)).lookup_named is not None


def test_and_for_another_machine(tmp_path):
    compiler = "aarch64-linux-gnu-gcc"
    if shutil.which(compiler) is None:
        pytest.skip(f"not installed: {compiler}")
    assert not build_into(tmp_path, binary=False)
    subprocess.run([str(tmp_path / SCRIPT)], check=True, env={**os.environ, "CC": compiler})
    assert (tmp_path / LIBRARY).read_bytes()[18:20] == b"\xb7\x00"  # ELF's e_machine: AArch64
