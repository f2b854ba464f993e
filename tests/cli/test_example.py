"""The example, end to end on the real engines: `edgec compile`, `inspect`, `run`, `verify`, and what breaks them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .conftest import EXAMPLE, HELDOUT, MODELS, edgec

pytestmark = pytest.mark.slow
PROMPT = "def read_config(path):"


def test_the_bundle_holds_what_the_design_names(example: Path) -> None:
    for name in ("manifest.json", "manifest.sha256", "report.html", "target/target_ctx.bin", "draft/config.json"):
        assert (example / name).is_file(), name
    assert (example / "tokenizer" / "tokenizer.json").is_file()
    manifest = json.loads((example / "manifest.json").read_text())
    spoken = manifest["speculation"]
    said = {key: spoken[key] for key in ("draft", "target", "k", "accept")}
    assert said == {"draft": "draft", "target": "target", "k": 3, "accept": "greedy"}
    assert spoken["schedule"]["calls"] == 3
    assert all(row["holds"] for row in manifest["measured"]["requires"])
    assert manifest["measured"]["perplexity"]["target"] / manifest["measured"]["baseline"]["target"] < 1.02


def test_speculation_gives_the_tokens_of_the_target_alone(example: Path) -> None:
    fast = edgec("run", example, "--prompt", PROMPT, "--tokens", 12, "--json")
    alone = edgec("run", example, "--prompt", PROMPT, "--tokens", 12, "--no-speculation", "--json")
    assert fast.returncode == alone.returncode == 0, fast.stderr + alone.stderr
    fast_facts, alone_facts = json.loads(fast.stdout), json.loads(alone.stdout)
    assert fast_facts["tokens"] == alone_facts["tokens"]
    assert len(fast_facts["tokens"]) == 12
    assert 0 < fast_facts["accepted"] <= fast_facts["drafted"]
    assert fast_facts["rounds"] < 12
    assert alone_facts["drafted"] == 0


def _content(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_compiles_give_the_same_bytes(example: Path, tmp_path: Path) -> None:
    done = edgec("compile", EXAMPLE, "-o", tmp_path / "again", "--quiet", "--jobs", 2)  # nor does the order matter
    assert done.returncode == 0, done.stderr
    first = {p.relative_to(example): p.read_bytes() for p in sorted(example.rglob("*")) if p.is_file()}
    second = {
        p.relative_to(tmp_path / "again"): p.read_bytes()
        for p in sorted((tmp_path / "again").rglob("*"))
        if p.is_file()
    }
    assert first.keys() == second.keys()
    differ = {str(name) for name in first if first[name] != second[name]}
    assert differ <= {"actions.html"}  # when each action ran, which the manifest does not list


def test_verify_measures_parts_and_perplexity(example: Path) -> None:
    words: list[str] = []
    for model, folder in (("target", "pycode-qwen3"), ("draft", "pycode-qwen2")):
        words += ["--source", f"{model}={MODELS / folder}"]
    done = edgec("verify", example, "--text", HELDOUT, "--windows", 1, "--json", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert facts["ok"] is True
    assert facts["problems"] == []
    assert set(facts["perplexity"]) == {"target", "draft"}
    for name, value in facts["perplexity"].items():
        assert 0.98 < value / facts["baseline"][name] < 1.06


@pytest.mark.parametrize(
    "name", ["target/target_ctx.bin", "draft/llm.mnn.weight", "tokenizer/tokenizer.json", "report.html"]
)
def test_verify_names_the_file_with_a_flipped_byte(example: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(example, copy)
    raw = bytearray((copy / name).read_bytes())
    raw[len(raw) // 2] ^= 0x10
    (copy / name).write_bytes(raw)
    done = edgec("verify", copy, "--json")
    assert done.returncode == 3, done.stderr
    assert any(name in problem for problem in json.loads(done.stdout)["problems"])


def test_a_broken_require_keeps_the_bundle_as_rejected(tmp_path: Path) -> None:
    text = f'plan p\ndevice host\nmodel m {{ source = hf("{MODELS}/pycode-qwen2")  context = 64 }}\n'
    text += "deploy m on cpu as ort\nrequire {\n  bundle.size       <= 1 MB\n}\n"
    (tmp_path / "plan.edge").write_text(text)
    done = edgec("compile", tmp_path / "plan.edge", "-o", tmp_path / "out", "--quiet")
    assert done.returncode == 3
    assert "error[E0950]" in done.stderr
    assert "bundle.size       <= 1 MB" in done.stderr
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.rejected" / "manifest.json").is_file()


@pytest.mark.parametrize("name", ["", "manifest.json", "target/target_ctx.bin", "draft/llm.mnn"])
def test_inspect_describes_what_the_bundle_holds(example: Path, name: str) -> None:
    done = edgec("inspect", example / name if name != "manifest.json" else example, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_a_rewritten_bundle_is_replaced_whole(example: Path, tmp_path: Path) -> None:
    other = tmp_path / "notes"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    done = edgec("compile", EXAMPLE, "-o", other, "--quiet")
    assert done.returncode == 1
    assert (other / "thesis.txt").read_text() == "mine"


def test_the_low_bit_example_keeps_what_it_requires(tmp_path: Path) -> None:
    """Rotation, 8-bit activations and cache on the NPU; widths chosen by layer on the CPU; calibrated on less text."""
    bundle = tmp_path / "low"
    less = ("-D", "samples=16", "-D", "judged=4")
    done = edgec("compile", EXAMPLE.parents[1] / "low_bit" / "plan.edge", "-o", bundle, "--json", *less)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    (table,) = facts["models"]["small"]["tables"]
    assert len(table["rows"]) == len(table["marked"]) == 14
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert len({row["bits"] for row in manifest["models"]["small"]["weights"] if row["bits"]}) > 1
    assert manifest["models"]["large"]["kv"]["dtype"] == "uint8"
    checked = json.loads(edgec("verify", bundle, "--text", HELDOUT, "--windows", 4, "--json").stdout)
    assert checked["ok"], checked["problems"]
    for name in ("large", "small"):
        assert checked["perplexity"][name] < 1.05 * checked["baseline"][name]
