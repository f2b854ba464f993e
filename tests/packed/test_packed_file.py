"""A packed file restores the file it was made from, in Python and in C; damage is told and leaves nothing behind."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.emit.sparse_integers import SparseIntegers
from edgec.compiler.ir.packing import pack_rows
from edgec.compiler.ir.sparse_pattern import Sparsity
from edgec.compiler.packed.kernels import IN_NUMPY, SOURCE, kernels
from edgec.compiler.packed.layout import RECORD, Header
from edgec.compiler.packed.pack_file import pack_file
from edgec.compiler.packed.unpack_file import unpack_file

from .conftest import codes

CC = shutil.which("cc")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
Pair = tuple[Path, Path]


@pytest.mark.parametrize("using", [IN_NUMPY, kernels()], ids=["numpy", "c"])
def test_the_file_comes_back(packed: Pair, using: object) -> None:
    dense, small = packed
    unpack_file(small, dense.with_name("again"), using)
    assert dense.with_name("again").read_bytes() == dense.read_bytes()
    assert sorted(path.name for path in dense.parent.iterdir()) == ["again", "weights", "weights.packed"]


def test_the_table_holds_a_row_for_each_stretch(packed: Pair) -> None:
    header = Header.read(memoryview(packed[1].read_bytes()))
    assert [segment.bits for segment in header.segments] == [0, 4, 0, 4, 0, 8, 0]
    assert [segment.run for segment in header.segments] == [0, 32, 0, 0, 0, 0, 0]
    assert header.size == packed[0].stat().st_size


def damages(whole: bytes, count: int) -> list[bytes]:
    """Cut, longer, and with bytes changed: in the header, the table, the payloads."""
    rng, made = np.random.default_rng(0), [b"", whole[:40], whole[: RECORD + 70], whole[:-1], whole + b"\0"]
    for number in range(count):
        data = bytearray(whole)
        within = (RECORD, 8 * RECORD, len(whole))[number % 3]
        for at in rng.integers(0, within, 1 + number % 4):
            data[at] = rng.integers(0, 256) if number % 2 else data[at] ^ 1 << rng.integers(0, 8)
        made.append(bytes(data))
    return made


def code_of(act: Callable[[], None]) -> str | None:
    try:
        act()
    except EdgecError as error:
        return error.diagnostics[0].code
    return None


def test_damage_is_an_error_and_leaves_no_file(packed: Pair) -> None:
    dense, small = packed
    whole, expected, out = small.read_bytes(), dense.read_bytes(), dense.with_name("again")
    for data in damages(whole, 150):
        small.write_bytes(data)
        code = code_of(lambda: unpack_file(small, out))
        if code is None:  # a byte that stands for nothing, or was left as it is
            assert out.read_bytes() == expected
            out.unlink()
        assert code in (None, "E0908")
        assert not out.exists()
        assert {path.name for path in dense.parent.iterdir()} == {"weights", "weights.packed"}


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A file of 96 MiB with a tensor at its end: pieces of 16 MiB are held, and segments of one."""
    rows, columns = 1024, 8192
    values = codes(rows, columns, "2:4", np.array(8), 4, 1)
    dense = tmp_path / "dense"
    with dense.open("wb") as file:
        file.truncate(96 << 20)
        file.seek(0, 2)
        file.write(pack_rows(values, 4, "big").tobytes())
    del values
    tensor = SparseIntegers("dense", "w", 96 << 20, rows, columns, 4, "big", Sparsity("2:4"), zero=8)
    kernels()
    tracemalloc.start()
    try:
        pack_file(dense, [tensor], tmp_path / "packed")
        unpack_file(tmp_path / "packed", tmp_path / "again")
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert filecmp.cmp(dense, tmp_path / "again", shallow=False)


def test_a_cut_file_says_so(packed: Pair, golden_error: object, tmp_path: Path) -> None:
    packed[1].write_bytes(packed[1].read_bytes()[:-1])
    with pytest.raises(EdgecError) as raised:
        unpack_file(packed[1], tmp_path / "again")
    golden_error("E0908", raised.value, hide={str(tmp_path): "TMP"})


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """unpack.c as it ships, built with the address sanitizer where that is installed."""
    if CC is None:
        pytest.skip("no C compiler")
    made = tmp_path_factory.mktemp("program") / "unpack"
    words = [CC, "-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(made), str(SOURCE)]
    if subprocess.run([*words, *SANITIZE], capture_output=True, check=False).returncode:
        subprocess.run(words, check=True)
    return made


def test_c_restores_the_file(packed: Pair, program: Path) -> None:
    out = packed[0].with_name("again")
    subprocess.run([program, packed[1], out], check=True)
    assert out.read_bytes() == packed[0].read_bytes()


def test_c_bears_damage(packed: Pair, program: Path) -> None:
    dense, small = packed
    whole, out, said = small.read_bytes(), dense.with_name("again"), set()
    for data in damages(whole, 90):
        small.write_bytes(data)
        done = subprocess.run([program, small, out], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr  # anything else is the sanitizer's
        if done.returncode:
            said.add(done.stderr.rpartition(": ")[2].strip())
            assert not out.exists()
        else:
            assert out.read_bytes() == dense.read_bytes()
            out.unlink()
        assert {path.name for path in dense.parent.iterdir()} == {"weights", "weights.packed"}
    assert said >= {"the packed file is damaged", "the restored bytes are not those that were packed"}
