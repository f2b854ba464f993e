"""A phone that is a folder, reached by a stand-in for adb, and a bundle for two chips with binaries of a few bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from edgec.compiler.bundle.manifest import write_manifest
from edgec.compiler.phone.run_script import write_run_script

HERE = Path(__file__).parent
CHIPS = {"snapdragon_8_gen_2": ("SM8550", "v73"), "snapdragon_8_gen_3": ("SM8650", "v75")}
GETPROP = '#!/bin/sh\n[ "$1" != ro.soc.model ] || cat "{phone}/soc"\n'
DF = """#!/bin/sh
echo "Filesystem 1K-blocks Used Available Use% Mounted on"
echo "/dev/x 9 9 $(cat {phone}/free) 1% /data"
"""


@dataclass
class Phone:
    """The folder that is the phone."""

    root: Path

    def set(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    @property
    def calls(self) -> list[str]:
        return (self.root / "calls").read_text().splitlines()

    @property
    def pushed(self) -> Path:
        return self.root / "data" / "local" / "tmp" / "edgec" / "chat"

    def files(self) -> set[str]:
        return {path.relative_to(self.pushed).as_posix() for path in self.pushed.rglob("*") if path.is_file()}


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    made = Phone(tmp_path / "phone")
    (made.root / "bin").mkdir(parents=True)
    (made.root / "data").mkdir()
    for name, text in (("getprop", GETPROP), ("df", DF)):
        program = made.root / "bin" / name
        program.write_text(text.format(phone=made.root))
        program.chmod(0o755)
    made.set("devices", "R5CT30\tdevice\n")
    made.set("soc", "SM8650-AC\n")
    made.set("free", "1000000\n")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "adb").symlink_to(HERE / "adb")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PHONE", str(made.root))
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    return made


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle in form only: what its files hold is not looked at by a push."""
    root = tmp_path / "bundle"
    chips = {}
    for chip in CHIPS:
        (root / "chat" / chip).mkdir(parents=True)
        for name in ("chat_ctx.bin", "chat_ctx.main.onnx", "chat_ctx.graphs.zip", "genie_config.json"):
            (root / "chat" / chip / name).write_text(f"{name} of {chip}")
        file = f"chat/{chip}/chat_ctx.bin"
        graphs = {"main": {"graph": "g", "file": f"chat/{chip}/chat_ctx.main.onnx"}}
        chips[chip] = {"file": file, "graphs": graphs, "details": {}}
    first = chips["snapdragon_8_gen_2"]
    tensors = {"inputs": [], "outputs": []}
    part = {
        "model": "chat", "device": "npu", "target": "qnn", "file": first["file"], "chips": chips, "details": {},
        "graphs": {"main": {**first["graphs"]["main"], **tensors}},
    }  # fmt: skip
    rows = [
        {"file": "libQnnHtp.so", "engine": "qnn", "why": "the backend", "from": "QAIRT SDK 2.51.0, lib/aarch64-android"}
    ]
    rows += [
        {"file": f"libQnnHtpV{arch[1:]}Stub.so", "engine": "qnn", "why": "the NPU", "arch": arch}
        for _, arch in CHIPS.values()
    ]
    rows.append({"file": "libGenie.so", "engine": "qnn", "why": "Genie", "optional": "true"})
    data = {
        "plan": {"name": "chat", "sha256": "0" * 64, "defines": {}},
        "devices": [{"name": name, "sm": sm, "arch": arch} for name, (sm, arch) in CHIPS.items()],
        "tools": {}, "inputs": {}, "tokenizers": {}, "sampling": {}, "memory": {}, "speculation": None,
        "models": {
            "chat": {
                "role": "model", "kind": "graph", "engine": "chain", "weights": [],
                "deploy": {"device": "npu", "target": "qnn", "pipeline": None, "options": {}},
                "buckets": [{"name": "main", "tokens": None, "context": None, "parts": ["chat.npu0"]}],
            }
        },
        "parts": {"chat.npu0": part}, "libraries": rows,
    }  # fmt: skip
    (root / "report.html").write_text("a report")
    assert write_run_script(root, data)
    write_manifest(root, data)
    return root


@pytest.fixture
def library_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "qairt" / "lib" / "aarch64-android"
    folder.mkdir(parents=True)
    for name in ("libQnnHtp.so", "libQnnHtpV73Stub.so", "libQnnHtpV75Stub.so"):
        (folder / name).write_text(name)
    return folder.parents[1]
