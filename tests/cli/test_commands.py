"""The commands that need no engine: their output, their exit codes, what they say to a mistake."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from .conftest import EXAMPLE, MODELS, ROOT, edgec


def test_check_accepts_the_example() -> None:
    done = edgec("check", EXAMPLE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(EXAMPLE))
    assert json.loads(edgec("check", EXAMPLE, "--json").stdout)["ok"] is True


def test_check_reads_no_array_library() -> None:
    """What makes `check` fast, asserted without a clock: the modules it may not import."""
    import subprocess
    import sys

    script = (
        "import sys\nfrom edgec.compiler.cli import main\n"
        f"code = main(['check', '--fast', {str(EXAMPLE)!r}])\n"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'torch', 'rich', 'MNN', 'tokenizers'} & set(sys.modules)\n"
        "print(code, sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "0 []"


def test_a_mistake_shows_its_place_and_exits_1(tmp_path: Path) -> None:
    plan = tmp_path / "plan.edge"
    text = EXAMPLE.read_text().replace('"../', f'"{EXAMPLE.parent.parent}/').replace("quantize (", "quantise (", 1)
    plan.write_text(text)
    done = edgec("check", plan)
    assert done.returncode == 1
    assert "error[E0102]: unknown pass `quantise`" in done.stderr
    assert "there is a pass named `quantize`" in done.stderr
    assert "^^^^^^^^" in done.stderr
    facts = json.loads(edgec("check", plan, "--json").stdout)
    assert facts["ok"] is False
    assert facts["diagnostics"][0]["code"] == "E0102"


def test_compile_of_a_wrong_plan_leaves_nothing(tmp_path: Path) -> None:
    plan = tmp_path / "plan.edge"
    plan.write_text("plan broken\ndevice nokia_3310\n")
    done = edgec("compile", plan, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "nokia_3310" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words", [[], ["compile"], ["frobnicate"], ["run", "x", "--tokens", "0"], ["compile", "p.edge", "--jobs", "no"]]
)
def test_usage_errors_exit_2(words: list[str]) -> None:
    done = edgec(*words)
    assert done.returncode == 2
    assert "usage:" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("words", [["passes"], ["devices"], ["passes", "quantize"], ["devices", "snapdragon_8_gen_3"]])
def test_lists_print_tables_and_json(words: list[str]) -> None:
    done = edgec(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert json.loads(edgec(*words, "--json").stdout)


def test_passes_shows_types_ranges_and_defaults() -> None:
    shown = edgec("passes", "quantize").stdout
    assert "block" in shown
    assert "default 32" in shown
    assert "channel" in shown


@pytest.mark.parametrize("words", [["passes", "quantise"], ["devices", "snapdragon_9_gen_3"], ["explain", "E9999"]])
def test_unknown_names_are_errors(words: list[str]) -> None:
    done = edgec(*words)
    assert done.returncode == 1
    assert "error[" in done.stderr
    assert "Traceback" not in done.stderr


def test_explain_prints_every_code() -> None:
    codes = [line.split()[0] for line in edgec("explain").stdout.splitlines()]
    assert "E0102" in codes
    assert len(codes) == len(set(codes)) > 50
    assert "pass" in edgec("explain", "e0102").stdout


def test_schema_is_a_json_schema() -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(json.loads(edgec("schema").stdout))


def test_inspect_a_model_folder_lists_the_names_globs_match() -> None:
    facts = json.loads(edgec("inspect", MODELS / "pycode-qwen3", "--json").stdout)
    assert "layers.3.mlp.up_proj" in facts["linears"]
    assert facts["parameters"] == 5_048_832 or facts["parameters"] > 5_000_000


def test_inspect_of_nothing_known(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    for path in (tmp_path / "a.txt", tmp_path / "none", tmp_path):
        done = edgec("inspect", path)
        assert done.returncode == 1
        assert "E0954" in done.stderr


def test_check_of_noise_is_quick(tmp_path: Path) -> None:
    plan = tmp_path / "noise.edge"
    plan.write_text("[" * 1_000_000)
    start = time.perf_counter()
    done = edgec("check", plan)
    assert done.returncode == 1
    assert time.perf_counter() - start < 20  # a recursion or a quadratic scan would take minutes
    assert "Traceback" not in done.stderr


def test_the_readme_shows_the_example_plan() -> None:
    """The plan in the README is the example, word for word but for its comment."""
    readme = (ROOT / "README.md").read_text()
    shown = readme.split("## A plan\n\n```\n")[1].split("```")[0]
    lines = [line.split("#")[0].split() for line in EXAMPLE.read_text().splitlines()]
    told = [line.split("#")[0].split() for line in shown.splitlines()]
    assert [line for line in told if line] == [line for line in lines if line]


def test_passes_shows_values_as_plans_write_them() -> None:
    shown = edgec("passes", "quantize").stdout
    assert "default [3, 4, 8]" in shown
    assert "default 4.5 bits" in shown
    assert "default true" in shown
    assert '["lm_head", "embed_tokens"]' in edgec("inspect", EXAMPLE).stdout


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_readme_leads_to_every_page_of_the_docs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"docs/{page.name}" not in readme] == []


def test_the_readme_and_the_help_name_every_command() -> None:
    readme, shown = (ROOT / "README.md").read_text(encoding="utf-8"), edgec("--help").stdout
    commands = re.findall(r"^    ([a-z]+)  ", shown, re.M)
    assert len(commands) > 8
    assert [name for name in commands if not re.search(rf"`(edgec )?{name}\b", readme)] == []


def test_the_layout_names_every_module_of_the_compiler() -> None:
    layout = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    inner = [path for path in (ROOT / "compiler").rglob("*.py") if "_edgec" not in path.parts]
    names = {path.parent.name if path.stem == "__init__" else path.stem for path in inner}
    assert [name for name in sorted(names) if not re.search(rf"`(\w+/)*{name}(\.py|/)?`", layout)] == []
