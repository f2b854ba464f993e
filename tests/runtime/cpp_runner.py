"""`device/runner.cc` built for this machine or for aarch64, against the engines' wheels."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgec.compiler.phone.device_sources import SOURCES

RUNNER = SOURCES / "runner.cc"
HEADERS = Path(__file__).with_name("mnn")
_FLAGS = ("-std=c++17", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pthread")


@dataclass(frozen=True)
class Program:
    """A built runner and the words that start it here."""

    words: tuple[str, ...]
    onnxruntime: Path

    def run(self, bundle: Path, *words: str, ids: str = "") -> subprocess.CompletedProcess[str]:
        line = [*self.words, str(bundle), "--ort", str(self.onnxruntime), *words]
        return subprocess.run(line, input=ids, capture_output=True, text=True, timeout=300, check=False)

    def answer(self, bundle: Path, ids: list[int], tokens: int, *words: str) -> dict[str, Any]:
        done = self.run(bundle, "--tokens", str(tokens), "--json", *words, ids=json.dumps(ids))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def compiler(prefix: str = "") -> str | None:
    """The C++ compiler, None where there is none."""
    return shutil.which(f"{prefix}g++") or (None if prefix else shutil.which("c++"))


def onnxruntime_library(site: Path) -> Path:
    """The shared library in an installed or unpacked wheel of onnxruntime."""
    return next((site / "onnxruntime" / "capi").glob("libonnxruntime.so.*"))


def site_packages() -> Path:
    """Where the engines' wheels are installed."""
    spec = find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[1]


def build(folder: Path, site: Path, prefix: str = "", mnn: bool = True, optimise: str = "-O1") -> Path:
    """The runner for MNN too, whose wheel in `site` is a Python module: what it wants of Python is never called."""
    made = folder / f"{prefix}edgec-runner"
    line = [f"{prefix}g++" if prefix else str(compiler()), *_FLAGS, optimise, str(RUNNER), "-o", str(made)]
    if mnn:
        module = next(site.glob("_mnncengine.*.so")).resolve()
        libraries = site.resolve() / "mnn.libs"
        # the wheel is built with the older form of std::string
        line += ["-D_GLIBCXX_USE_CXX11_ABI=0", "-DEDGEC_MNN", "-I", str(HEADERS), str(module)]
        line += [str(_python_symbols(folder, module, prefix)), f"-Wl,-rpath,{module.parent}:{folder}"]
        line += [f"-Wl,-rpath-link,{libraries}"]
    subprocess.run([*line, "-ldl"], check=True, capture_output=True, text=True)
    return made


def _python_symbols(folder: Path, module: Path, prefix: str) -> Path:
    """A library with a place for each of Python's symbols that the module names."""
    listed = subprocess.run(["nm", "-D", "--undefined-only", str(module)], check=True, capture_output=True, text=True)
    names = sorted(set(re.findall(r"\b_?Py\w+", listed.stdout)))
    source, made = folder / "symbols.c", folder / f"lib{prefix}symbols.so"
    source.write_text("".join(f"char {name}[256];\n" for name in names))
    words = ["-shared", "-fPIC", "-Wno-builtin-declaration-mismatch", "-o", str(made)]
    subprocess.run([f"{prefix}gcc" if prefix else "cc", str(source), *words], check=True, capture_output=True)
    return made
