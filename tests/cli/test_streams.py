"""What is printed is safe and one document, whatever stdout is and whatever a used file does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EDGEC = [sys.executable, "-m", "edgec.compiler.cli"]
FULL = Path("/dev/full")
BAD, GOOD = "let 名 = 1\n", "device host\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a plan that is right and one that is not."""
    monkeypatch.chdir(tmp_path)
    Path("bad.edge").write_text(BAD, encoding="utf-8")
    Path("good.edge").write_text(GOOD)


def shell(command: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run `edgec …` in bash; its exit code, not that of what it is piped into."""
    text = f"set -o pipefail; {' '.join(EDGEC)} {command}"
    run = subprocess.run(["bash", "-c", text], capture_output=True, check=False, env={**os.environ, **env}, timeout=60)
    assert b"Traceback" not in run.stderr, run.stderr.decode()
    assert b"Exception ignored" not in run.stderr
    return run


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("check bad.edge --json >&-", 1),
        ("check good.edge >&-", 0),
        ("check bad.edge >&- 2>&- <&-", 1),
        ("check bad.edge --json | head -0", 1),
        ("check bad.edge 2>/dev/full", 1),
        ("check good.edge >/dev/full", 1),
        ("check bad.edge --json >/dev/full", 1),
        ("devices >/dev/full", 1),
        ("--help >/dev/full", 1),
    ],
)
def test_a_closed_or_full_stdout_is_no_crash(command, code):
    if "/dev/full" in command and not FULL.exists():
        pytest.skip("this system has no /dev/full")
    run = shell(command)
    assert run.returncode == code
    if ">/dev/full" in command and "2>" not in command and "--help" not in command:
        assert b"error[E0955]: `standard output` cannot be read or written: no space left on device" in run.stderr


def test_an_ascii_stdout_gets_a_whole_document():
    run = shell("check bad.edge --json", PYTHONIOENCODING="ascii")
    assert run.stdout.isascii()
    assert json.loads(run.stdout)["diagnostics"][0]["message"] == "`名` is not part of the language"


def test_a_name_that_is_no_utf_8_is_in_the_document():
    Path("x\udcff.edge").write_text(BAD, encoding="utf-8")
    run = shell("check x$'\\xff'.edge --json")
    assert json.loads(run.stdout)["diagnostics"][0]["at"]["file"] == "x\udcff.edge"


USED = {
    "prints": "print('x')\nimport os; os.write(1, b'y'); os.system('echo z')",
    "exits": "import os; os._exit(0)",
    "leaves": "import sys; sys.exit(0)",
    "base": "class B(BaseException): pass\nraise B('x')",
    "generator": "raise GeneratorExit",
    "text raises": "class E(Exception):\n    def __str__(self): raise ValueError('in str')\nraise E()",
    "name raises": (
        "class M(type):\n    @property\n    def __name__(c): raise ValueError\n"
        "class E(Exception, metaclass=M): pass\nraise E()"
    ),
    "metaclass": (
        "from edgec.api import Pass\nclass M(type):\n    def __getattr__(c, n): raise RuntimeError(n)\n"
        "class A(Pass, metaclass=M): pass"
    ),
    "closes": "import sys; sys.stdout.close(); sys.stderr.close()",
    "forks": "import os; os.fork()",
    "forged": "raise ValueError('one\\nerror[E9999]: forged')",
    "escapes": "raise ValueError('\\x1b[31mred\\u202e')",
    "thread": "import threading, time\nthreading.Thread(target=lambda: (print('late'), time.sleep(600))).start()",
}


@pytest.mark.parametrize("name", USED)
def test_a_used_file_cannot_spoil_the_document(name):
    Path("u.py").write_text(USED[name])
    Path("u.edge").write_text('use "u.py"\n')
    run = shell("check u.edge --json")
    assert run.returncode == 1
    codes = [one["code"] for one in json.loads(run.stdout)["diagnostics"]]
    assert codes == ["E0305" if name in ("prints", "closes", "forks", "thread") else "E0304"]
    assert b"\nerror[E9999]" not in run.stderr
    assert b"\x1b" not in run.stderr


def ended_by(number):
    """Exit code and standard error of `check u.edge`, which gets the signal once u.py has made `began`."""
    with subprocess.Popen([*EDGEC, "check", "u.edge"], stderr=subprocess.PIPE) as process:
        for _ in range(500):
            if Path("began").exists():
                break
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    return process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_command_with_its_code(number):
    Path("u.py").write_text("import time, pathlib\npathlib.Path('began').touch()\ntime.sleep(60)")
    Path("u.edge").write_text('use "u.py"\n')
    assert ended_by(number) == (128 + number, b"interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_no_fault_of_what_turned_its_exception_into_another(number):
    lines = ("import pathlib, time", "pathlib.Path('began').touch()", "try:", "    time.sleep(60)")
    Path("u.py").write_text("\n".join((*lines, "except BaseException:", "    raise ValueError('mine')")))
    Path("u.edge").write_text('use "u.py"\n')
    assert ended_by(number)[0] == 128 + number


def test_a_folder_is_made_and_noted_before_a_signal_ends_the_command(tmp_path, monkeypatch):
    """The signal comes when the folder is there and nobody knows of it yet."""
    from edgec.compiler.commands.signals import Ended, signals_end
    from edgec.compiler.files import scratch

    made, parent = scratch.tempfile.mkdtemp, tmp_path / "parent"
    parent.mkdir()

    def interrupted(**given: object) -> str:
        folder = made(**given)
        os.kill(os.getpid(), signal.SIGTERM)
        return folder

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", interrupted)
    with pytest.raises(Ended), signals_end(), scratch.scratch_folder("test", parent):
        pass
    scratch.release_all()
    assert list(parent.iterdir()) == []
