"""Programs for processors that this machine does not have: built by a cross compiler, run in an emulator."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgec.compiler.kernels.build import SOURCES
from edgec.compiler.kernels.shapes import HEADER, Shape, header

HERE = Path(__file__).resolve().parent
_WORDS = ("-std=gnu11", "-Wall", "-Wextra", "-ffp-contract=off", "-static", "-I", str(SOURCES))


@dataclass(frozen=True)
class Machine:
    """A processor: its cross compiler, its emulator, and the kernels it has."""

    name: str
    compiler: str
    emulator: tuple[str, ...]
    kernels: tuple[str, ...]

    @property
    def missing(self) -> str:
        """Tools that are not installed; empty if all are."""
        return ", ".join(tool for tool in (self.compiler, self.emulator[0]) if shutil.which(tool) is None)

    def build(
        self, folder: Path, program: str, change: tuple[str, str, str] | None = None, shapes: Iterable[Shape] = ()
    ) -> Path:
        """`program`.c with all kernels, specialised for `shapes`; `change` = (file, text, other text) puts a mistake
        into a copy of one, which is optimised less: that takes a third of the time.
        """
        sources = folder / "sources"
        folder.mkdir(exist_ok=True)
        shutil.copytree(SOURCES, sources, dirs_exist_ok=True)
        (sources / HEADER).write_text(header(shapes), encoding="utf-8")
        if change is not None:
            file, text, other = change
            held = (sources / file).read_text(encoding="utf-8")
            assert text in held
            (sources / file).write_text(held.replace(text, other), encoding="utf-8")
        files = [path for path in sorted(sources.glob("*.c")) if path.name != "ort_op.c"]
        made = folder / f"{program}-{self.name}"
        fast = "-O3" if change is None else "-O2" if self.name == "hexagon" else "-O1"  # there -O1 wants a C library
        line = [self.compiler, fast, *_WORDS, *self._own(), *map(str, files), str(HERE / f"{program}.c")]
        line += [str(HERE / "hexagon" / "runtime.c")] if self.name == "hexagon" else ["-lm"]
        subprocess.run([*line, "-o", str(made)], check=True, capture_output=True, text=True)
        return made

    def _own(self) -> list[str]:
        if self.name != "hexagon":
            return []
        own = "--target=hexagon-unknown-linux-musl -mcpu=hexagonv68 -mhvx=v68 -mhvx-length=128b -ffreestanding"
        own += " -fno-stack-protector -fno-vectorize -fno-slp-vectorize -nostdlib -nostdinc -fuse-ld=lld -Wl,-e,_start"
        return [*own.split(), "-isystem", _resources(self.compiler), "-isystem", str(HERE / "hexagon")]

    def run(self, program: Path, *words: object) -> subprocess.CompletedProcess[str]:
        """The program's exit code and output."""
        line = [*self.emulator, str(program), *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)

    def count(self, program: Path, functions: str, *words: object) -> int:
        """How many instructions (Hexagon: packets of up to four) functions of these names run, by a trace."""
        trace = program.with_suffix(".trace")
        line = [*self.emulator, "-singlestep", "-d", "exec,nochain", "-D", str(trace), str(program), *map(str, words)]
        subprocess.run(line, capture_output=True, timeout=300, check=True)
        with trace.open(encoding="utf-8", errors="replace") as lines:
            wanted = re.compile(rf"({functions})$")
            found = sum(1 for line in lines if wanted.search(line.rstrip()))
        trace.unlink()
        return found


@cache
def _resources(compiler: str) -> str:
    done = subprocess.run([compiler, "-print-resource-dir"], capture_output=True, text=True, check=True)
    return str(Path(done.stdout.strip()) / "include")


ARM = Machine("aarch64", "aarch64-linux-gnu-gcc", ("qemu-aarch64",), ("neon", "neon_dot"))
HEXAGON = Machine("hexagon", "clang-19", ("qemu-hexagon", "-cpu", "v67"), ("hvx",))
MACHINES = {machine.name: machine for machine in (ARM, HEXAGON)}
