"""The example target is installed for real and used from check to verify, without an edit anywhere in the tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "examples" / "third_party_target"
PLAN = f"""plan p
device snapdragon_8_gen_3
model m {{ source = hf("{ROOT}/examples/models/pycode-qwen2")  context = 64 }}
pipeline c {{ quantize (weights = int8, block = 32)  except "embed_tokens" }}
deploy m on cpu through c as plain {{ threads = 2 }}
"""
BUILT_IN = PLAN.replace("as plain { threads = 2 }", "as ort")


@pytest.fixture(scope="module")
def site(installed_example: Callable[[str], Path]) -> Path:
    return installed_example("third_party_target")


def edgec(site: Path | None, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **({"PYTHONPATH": str(site)} if site else {})}
    done = subprocess.run([sys.executable, "-m", "edgec", *words], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "p.edge"
    path.write_text(PLAN)
    return path


@pytest.fixture(scope="module")
def bundle(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "p.edge").write_text(PLAN)
    edgec(site, "compile", str(folder / "p.edge"), "-o", str(folder / "out"), "--quiet")
    return folder / "out"


def test_its_bundle_is_run_verified_and_described(site: Path, bundle: Path) -> None:
    part = json.loads((bundle / "manifest.json").read_text())["parts"]["m.cpu0"]
    assert (part["target"], part["details"]) == ("plain", {"threads": 2})
    made = json.loads(edgec(site, "run", str(bundle), "--prompt", "def f(", "--tokens", "4", "--json").stdout)
    assert len(made["tokens"]) == 4
    checked = json.loads(edgec(site, "verify", str(bundle), "--json").stdout)
    assert checked["ok"]
    assert 0 < checked["parts"]["m.cpu0"]["relative_error"] < 0.1
    assert json.loads(edgec(site, "inspect", str(bundle / part["file"]), "--json").stdout)["kind"] == "plain"
    assert json.loads(edgec(site, "inspect", str(bundle), "--json").stdout)["parts"]["m.cpu0"]["target"] == "plain"


def test_a_wrong_entry_is_a_problem_of_its_part(site: Path, bundle: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; from edgec_plain import PlainTarget\n"
        "bundle = Path(sys.argv[1]); part = json.loads((bundle / 'manifest.json').read_text())['parts']['m.cpu0']\n"
        "print(PlainTarget().verify_part(bundle, part)); part['graphs']['main']['outputs'].pop()\n"
        "print(PlainTarget().verify_part(bundle, part))"
    )
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle)], env=env, capture_output=True, text=True, check=True
    )
    right, wrong = done.stdout.splitlines()
    assert right == "[]"
    assert "the outputs of `m/m.cpu0_main.onnx` are" in wrong


def test_its_mistakes_have_its_own_code_and_page(site: Path, plan: Path) -> None:
    plan.write_text(PLAN.replace("threads = 2", "threads = 9"))
    done = edgec(site, "check", str(plan), code=1)
    assert "error[PLAIN01]: 9 threads are more than the 8 cores of `snapdragon_8_gen_3`" in done.stderr
    assert "5 | deploy m on cpu through c as plain { threads = 9 }" in done.stderr
    assert "help: set `threads` to at most 8" in done.stderr
    assert edgec(site, "explain", "plain01").stdout.startswith("PLAIN01: More threads than cores\n\n")
    assert "PLAIN02  An emitted graph computes something else" in edgec(site, "explain").stdout


def test_its_options_and_capabilities_are_checked(site: Path, plan: Path) -> None:
    plan.write_text(PLAN.replace("threads = 2", "threads = 0"))
    assert "error[E0203]" in edgec(site, "check", str(plan), code=1).stderr
    plan.write_text(PLAN.replace("threads = 2", "kv = uint8"))
    assert "`as plain` has no uint8 K/V cache" in edgec(site, "check", str(plan), code=1).stderr
    plan.write_text(PLAN.replace("on cpu", "on npu"))
    assert "target `plain` does not run on `npu`" in edgec(site, "check", str(plan), code=1).stderr


def test_a_check_imports_nothing_heavy_of_it(site: Path, plan: Path) -> None:
    code = (
        "import sys, edgec; assert edgec.check(sys.argv[1]); print({'numpy', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code, str(plan)], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stderr


def test_without_it_the_plan_and_the_bundle_say_what_is_missing(bundle: Path, plan: Path) -> None:
    assert "unknown target `plain`" in edgec(None, "check", str(plan), code=1).stderr
    assert (
        "needs the target `plain`, which is not installed"
        in edgec(None, "run", str(bundle), "--prompt", "a", code=1).stderr
    )
    assert "unknown error code `PLAIN01`" in edgec(None, "explain", "PLAIN01", code=1).stderr


def test_installing_it_changes_no_plan(site: Path, plan: Path, tmp_path: Path) -> None:
    plan.write_text(BUILT_IN)
    hashes = []
    for number, where in enumerate((None, site)):
        edgec(where, "compile", str(plan), "-o", str(tmp_path / f"out{number}"), "--quiet")
        hashes.append(json.loads((tmp_path / f"out{number}" / "manifest.json").read_text())["files"])
    assert hashes[0] == hashes[1]


def test_edgecs_own_pages_cannot_be_taken(plugin, tmp_path: Path) -> None:
    from edgec.compiler import registry
    from edgec.compiler.diagnostics import explain
    from edgec.compiler.diagnostics.plugin_pages import page_files

    entries = "[edgec.codes]\nthief = edgec_thief\n"
    plugin("edgec-thief", entries, {})
    (tmp_path / "site" / "edgec_thief").mkdir()
    page = tmp_path / "site" / "edgec_thief" / "codes.toml"
    for text, why in [
        ('[E0101]\ntitle = "a"\nexplanation = "b"\n', "has the form of edgec's own"),
        ('[T1]\ntitle = "a"\n', "needs a `title` and an `explanation`"),
        ("[T1\n", "cannot be read"),
    ]:
        page.write_text(text)
        explain._read.cache_clear()
        registry.forget()
        assert page_files() == []
        (found,) = registry.broken_plugins()
        assert found.code == "E0118"
        assert why in found.message
        assert explain.codes(page_files())["E0101"]["title"] != "a"
