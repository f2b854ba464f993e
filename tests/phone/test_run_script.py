"""`device/run.sh` on a phone that is a folder: the chip, the files, the libraries, and the environment it gives."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from edgec.compiler.phone.push import push_bundle
from edgec.compiler.phone.run_script import run_script

SHELLS = [shell for shell in ("dash", "bash", "busybox", "mksh") if shutil.which(shell)]


def run(phone, *words: str, shell: str = "sh", **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["busybox", "sh"] if shell == "busybox" else [shell]
    path = f"{phone.root}/bin:{os.environ['PATH']}"
    script = phone.pushed / "device" / "run.sh"
    whole = {**os.environ, "PATH": path, **environment}
    return subprocess.run([*command, str(script), *words], capture_output=True, text=True, env=whole, check=False)


@pytest.fixture
def pushed(phone, bundle, library_folder):
    push_bundle(bundle, library_folder=library_folder)
    return phone


@pytest.mark.parametrize("shell", SHELLS)
def test_all_is_there(pushed, shell):
    done = run(pushed, "check", shell=shell)
    assert (done.returncode, done.stdout) == (0, "ok: snapdragon_8_gen_3 (SM8650-AC)\n")


@pytest.mark.parametrize("soc", ["SM8750", "SM86500", "SM8635", "Tensor G5", "*", "sm8650; reboot"])
@pytest.mark.parametrize("word", ["check", "list", "exec"])
def test_another_chip_is_refused_by_name(pushed, soc, word):
    pushed.set("soc", soc)
    done = run(pushed, word, "true")
    assert done.returncode == 1
    assert done.stderr == (
        "run.sh: this bundle was built for snapdragon_8_gen_2 (SM8550) and snapdragon_8_gen_3 (SM8650), "
        f"not for {soc}\n"
    )


def test_a_chip_that_is_not_said(pushed):
    pushed.set("soc", "")
    assert "set EDGEC_DEVICE to snapdragon_8_gen_2 or snapdragon_8_gen_3" in run(pushed, "check").stderr
    assert run(pushed, "check", EDGEC_DEVICE="SM8650").returncode == 0


def test_files_of_the_other_chip_are_not_there(pushed):
    pushed.set("soc", "SM8550")
    done = run(pushed, "check")
    assert done.returncode == 3
    assert "chat/snapdragon_8_gen_2/chat_ctx.bin" in done.stderr


def test_a_library_that_is_missing_is_named(pushed):
    (pushed.pushed / "lib" / "libQnnHtpV75Stub.so").unlink()
    done = run(pushed, "check")
    assert done.returncode == 3
    assert done.stderr.endswith("(docs/phone.md says where they come from): libQnnHtpV75Stub.so\n")


def test_a_command_gets_the_libraries(pushed):
    done = run(pushed, "exec", "sh", "-c", 'echo "$LD_LIBRARY_PATH|$ADSP_LIBRARY_PATH|$PWD"', LD_LIBRARY_PATH="/x")
    here = str(pushed.pushed)
    libraries, skels, folder = done.stdout.strip().split("|")
    assert (libraries, folder) == (f"{here}/lib:/x", here)
    assert skels.split(";")[0] == f"{here}/lib"


def test_genie_starts_in_the_models_folder(pushed):
    genie = pushed.root / "bin" / "genie-t2t-run"
    genie.write_text('#!/bin/sh\necho "$PWD" "$@"\n')
    genie.chmod(0o755)
    done = run(pushed, "genie", "chat", "a prompt")
    assert done.stdout == f"{pushed.pushed}/chat/snapdragon_8_gen_3 -c genie_config.json -p a prompt\n"
    assert "genie runs chat, not 'draft'" in run(pushed, "genie", "draft", "a prompt").stderr


def test_the_runner_gets_the_bundle_and_the_chip(pushed):
    script = pushed.pushed / "device" / "run.sh"
    data = {"plan": {"name": "chat"}, "devices": [{"name": "snapdragon_8_gen_3", "sm": "SM8650", "arch": "v75"}]}
    model = {"kind": "decoder", "engine": "chain"}
    script.write_text(run_script({**data, "models": {"chat": model}, "parts": {}, "files": {}, "libraries": []}))
    done = run(pushed, "runner", "--ids", "1 2")
    assert (done.returncode, "build device/runner.cc" in done.stderr) == (3, True)
    program = pushed.pushed / "lib" / "edgec-runner"
    program.write_text('#!/bin/sh\necho "$@"\n')
    done = run(pushed, "runner", "--ids", "1 2", "--json")
    assert done.stdout == f"{pushed.pushed} --device snapdragon_8_gen_3 --ids 1 2 --json\n"


def test_an_unknown_word(pushed):
    done = run(pushed, "fly")
    assert (done.returncode, done.stderr) == (2, "run.sh: unknown word fly: check, list, exec, genie\n")
