"""The library of custom ops for ONNX Runtime, built once on this machine with its C compiler and kept in the cache.

Nothing of a bundle is ever loaded as code: what runs here is made of edgec's own sources, wherever a model comes from.
The library holds a kernel for each kind of processor and asks at run time what the one it runs on can do.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..files.cache import find, make
from ..files.scratch import scratch_folder
from .c_compiler import called, compiler, reason
from .shapes import HEADER, Shape, header

SOURCES = Path(__file__).with_name("lookup")
LIBRARY = "libedgec_lookup.so"
SCRIPT = "build.sh"
_KIND = "kernels"
_FLAGS = ("-O3", "-fPIC", "-std=c11", "-ffp-contract=off", "-Wall", "-Wextra")
_AVX512_BW = "avx512f avx512bw avx512vl avx512dq fma f16c"
_OWN = {
    "avx2.c": "avx2 fma f16c",
    "avx512.c": f"{_AVX512_BW} avx512vbmi avx512vnni",
    "avx512_bw.c": _AVX512_BW,
}  # instructions that one file is compiled for, on x86-64


@dataclass(frozen=True)
class Built:
    """The library, or in words why there is none."""

    path: Path | None
    reason: str = ""
    help: str = "install a C compiler, for instance `apt install gcc`"


def sources() -> list[Path]:
    """The C files and headers, by name."""
    return sorted(path for path in SOURCES.iterdir() if path.suffix in (".c", ".h"))


@functools.cache
def library(shapes: tuple[Shape, ...] = ()) -> Built:
    """The library for this machine, specialised for `shapes`; the compiler is asked once in a process for each."""
    if os.name != "posix":
        return Built(None, "kernels are built on Linux and macOS only")
    found = compiler()
    if found is None:
        return Built(None, "there is no C compiler (`cc`, `gcc`, `clang`, or what `CC` names)")
    try:
        version = called([*found, "--version"])
        key = _key(version, shapes)
        folder = find(_KIND, key) or make(_KIND, key, lambda work: _build(found, work, shapes))
    except (OSError, subprocess.SubprocessError) as error:
        return Built(None, f"`{found[0]}` does not build them: {reason(error)}")
    try:
        ctypes.CDLL(str(folder / LIBRARY))
    except OSError as error:
        return _not_loaded(found, str(error).removeprefix(f"{folder / LIBRARY}: "))
    return Built(folder / LIBRARY)


def _not_loaded(words: list[str], said: str) -> Built:
    """Why the library does not load: `CC` names a compiler for another processor, or what the system `said`."""
    try:
        other = called([*words, "-dumpmachine"]).strip()
    except (OSError, subprocess.SubprocessError):
        other = ""
    here = platform.machine()
    if other and other.split("-")[0] not in (here, here.replace("_", "-"), {"arm64": "aarch64"}.get(here)):
        reason = f"`{words[0]}` builds for {other.split('-')[0]}, this machine is {here}"
        return Built(None, reason, "let `CC` name a compiler for this machine, or unset it")
    return Built(None, f"what `{words[0]}` builds does not load on this machine: {said}", "see what `CC` names")


def build_into(folder: Path, binary: bool = True, shapes: tuple[Shape, ...] = ()) -> bool:
    """Copy the sources, specialised for `shapes`, and a script that builds them into `folder`, with `binary` also this
    machine's library.

    Returns whether the library is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in sources():
        shutil.copyfile(path, folder / path.name)
    if shapes:
        (folder / HEADER).write_text(header(shapes), encoding="utf-8")
    script = folder / SCRIPT
    script.write_text(_script(), encoding="utf-8")
    script.chmod(0o755)
    built = library(shapes).path if binary else None
    if built is not None:
        shutil.copyfile(built, folder / LIBRARY)
    return built is not None


def _script() -> str:
    """A shell script that builds the library beside it with `CC`, for whatever machine that compiles for."""
    lines = [
        "#!/bin/sh",
        f"# Builds {LIBRARY}, custom ops for ONNX Runtime. CC names the compiler, for a phone the NDK's:",
        "#     CC=aarch64-linux-android34-clang ./build.sh",
        "set -eu",
        'cd "$(dirname "$0")"',
        'CC="${CC:-cc}"',
        *(f'{name.removesuffix(".c")}=""' for name in _OWN),
        'case "$($CC -dumpmachine)" in x86_64*)',
        *(
            f'  {name.removesuffix(".c")}="{" ".join("-m" + word for word in words.split())}"'
            for name, words in _OWN.items()
        ),
        "esac",
    ]
    for name in _c_files():
        own = f" ${name.removesuffix('.c')}" if name in _OWN else ""
        lines.append(f"$CC {shlex.join(_FLAGS)}{own} -c {name}")
    objects = " ".join(name.replace(".c", ".o") for name in _c_files())
    return "\n".join([*lines, f"$CC -shared {objects} -lm -o {LIBRARY}", f"rm {objects}", ""])


def _c_files() -> list[str]:
    return [path.name for path in sources() if path.suffix == ".c"]


def _for_file(name: str) -> list[str]:
    has = platform.machine() in ("x86_64", "AMD64") and name in _OWN
    return [f"-m{word}" for word in _OWN[name].split()] if has else []


def _key(version: str, shapes: tuple[Shape, ...]) -> str:
    digest = hashlib.sha256(f"{version}\n{platform.machine()}\n{_script()}\n{header(shapes)}".encode())
    for path in sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _build(words: list[str], work: Path, shapes: tuple[Shape, ...]) -> None:
    with scratch_folder("kernels") as objects, ThreadPoolExecutor(os.cpu_count()) as threads:
        (objects / HEADER).write_text(header(shapes), encoding="utf-8")
        made = list(threads.map(lambda name: _compile(words, name, objects), _c_files()))
        called([*words, "-shared", *made, "-lm", "-o", str(work / LIBRARY)])


def _compile(words: list[str], name: str, objects: Path) -> str:
    """The object of one C file, in `objects`, where `shapes.h` is."""
    made = str(objects / name.replace(".c", ".o"))
    line = [*words, *_FLAGS, *_for_file(name), "-I", str(objects), "-c", str(SOURCES / name), "-o", made]
    try:
        called(line)
    except subprocess.CalledProcessError:  # a compiler that does not know these instructions
        if not _for_file(name):
            raise
        called([one for one in line if one not in _for_file(name)])
    return made
