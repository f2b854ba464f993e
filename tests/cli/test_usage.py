"""Mistakes of usage, help, completion, several plans at once. In this process: nothing here needs a fresh one."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from edgec.compiler.cli import main
from edgec.compiler.commands.run import _print_verified

from .conftest import EXAMPLE, ROOT

RIGHT, WRONG = "plan p\ndevice host\n", "plan p\ndevice nokia\n"


@pytest.fixture
def plans(tmp_path: Path) -> tuple[Path, Path]:
    right, wrong = tmp_path / "right.edge", tmp_path / "wrong.edge"
    right.write_text(RIGHT)
    wrong.write_text(WRONG)
    return right, wrong


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["chek"], "no command `chek`; did you mean `check`?"),
        (["frobnicate"], "no command `frobnicate`\n"),
        (["check", "p.edge", "--fsat"], "edgec check: there is no option `--fsat`; did you mean `--fast`?"),
        (["check", "p.edge", "--explain-skips"], "there is no option `--explain-skips`, `edgec compile` has it"),
        (["check", "p.edge", "--prompt", "x"], "there is no option `--prompt`, `edgec run` has it"),
        (["--verison"], "edgec: there is no option `--verison`; did you mean `--version`?"),
        (["schema", "more"], "edgec schema: `more` is one argument too many"),
        (["compile"], "edgec compile: the following arguments are required: plan"),
        (["help", "chek"], "did you mean `check`?"),
        (["che\x1b[31mk\nok"], "no command `che\\x1b[31mk\\nok`"),
        (["cache", "prune", "--older", "\u202e3"], "edgec cache: `\\u202e3` is no age"),
        ([], "usage: edgec"),
    ],
)
def test_a_wrong_word_is_usage_with_what_was_meant(words: list[str], said: str, capsys) -> None:
    with pytest.raises(SystemExit) as raised:
        main(words)
    assert raised.value.code == 2
    assert said in capsys.readouterr().err


def test_a_name_in_a_bundle_forges_no_line(capsys) -> None:
    nothing: dict[str, object] = {"parts": {}, "perplexity": {}, "baseline": {}, "requires": [], "ok": False}
    _print_verified({**nothing, "problems": ["file `x\nok\x1b[2J` is no file"]})
    assert capsys.readouterr().out == "problem: file `x\\nok\\x1b[2J` is no file\n1 problem\n"


def test_help_is_that_of_the_command(capsys) -> None:
    assert main(["help"]) == 0
    assert "compile a plan into a bundle" in capsys.readouterr().out
    assert main(["help", "check"]) == 0
    assert "--fast" in capsys.readouterr().out


def test_several_plans_are_checked_each(plans, capsys) -> None:
    right, wrong = plans
    assert main(["check", str(right), str(right)]) == 0
    capsys.readouterr()
    assert main(["check", str(right), "--json", str(wrong)]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert {Path(name).name: row["ok"] for name, row in document["plans"].items()} == {
        "right.edge": True,
        "wrong.edge": False,
    }


def test_a_plan_from_stdin(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(WRONG.encode())))
    assert main(["check", "-"]) == 1
    assert "<stdin>:2:8" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"#" * (300 << 10))))
    assert main(["check", "-"]) == 1
    assert "E0009" in capsys.readouterr().err


def test_a_plan_is_no_bundle(plans, capsys) -> None:
    assert main(["run", str(plans[0]), "--prompt", "x"]) == 1
    assert "is a plan, not a bundle" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command_and_option(shell: str, capsys) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("compile", "explain", "verify-each", "snapdragon_8_gen_3", "E0102"):
        assert word in script
    if (program := shutil.which(shell)) is not None:
        assert subprocess.run([program, "-n"], input=script, text=True, capture_output=True, check=False).stderr == ""


def test_bash_completes(capsys) -> None:
    main(["completion", "bash"])
    script = capsys.readouterr().out + (
        '\nCOMP_CWORD=2\nCOMP_WORDS=(edgec devices snapdragon_8s); _edgec; echo "${COMPREPLY[@]}"'
        f'\ncd {EXAMPLE.parent.relative_to(ROOT)}\nCOMP_WORDS=(edgec check pl); _edgec; echo "${{COMPREPLY[@]}}"'
        '\nCOMP_WORDS=(edgec run --tok); _edgec; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.stdout.split() == ["snapdragon_8s_gen_3", "plan.edge", "--tokens"], done.stderr
