"""What the manifest says of weights is what is stored: widths below four bits, and heads that a pass untied."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from .conftest import HELDOUT, MODELS, edgec

PLAN = """
plan narrow
device host
model m {{ source = hf("{model}")  context = 256 }}
evaluation {{ text = "{text}"  windows = 2 }}
pipeline p {{
  quantize (weights = int3, block = 32, method = mse)  except ["lm_head", "embed_tokens", "*.mlp.*"]
  quantize (weights = int2, block = 32, symmetric = false, method = mse)  on "*.mlp.*"
}}
deploy m on cpu through p as {target}
"""
STORED = {
    "mnn { memory = normal }": {("int3", 3): 8, ("uint2", 2): 6},
    "ort": {("int4", 3): 8, ("uint2", 2): 6},
    "ort { format = dequantize }": {("int4", 3): 8, ("uint4", 2): 6},
}


@pytest.mark.slow
@pytest.mark.parametrize("target", STORED)
def test_narrow_integers_ship_as_they_are(tmp_path: Path, target: str) -> None:
    plan, bundle = tmp_path / "p.edge", tmp_path / "bundle"
    plan.write_text(PLAN.format(model=MODELS / "pycode-qwen2", text=HELDOUT, target=target))
    done = edgec("compile", plan, "-o", bundle, "--quiet")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((bundle / "manifest.json").read_text())
    rows = [row for row in manifest["models"]["m"]["weights"] if row["bits"]]
    assert Counter((row["dtype"], row["bits"]) for row in rows) == STORED[target]
    assert ("int3 block 32 symmetric, stored in 4 bits" in (bundle / "report.html").read_text()) == target.startswith(
        "ort"
    )
    checked = json.loads(edgec("verify", bundle, "--text", HELDOUT, "--windows", 2, "--json").stdout)
    assert checked["ok"], checked["problems"]
    # the module's own perplexity was measured by the oracle when it was compiled
    assert checked["perplexity"]["m"] == pytest.approx(manifest["measured"]["perplexity"]["m"], rel=1e-4)
    assert checked["perplexity"]["m"] > 1.05 * checked["baseline"]["m"]  # two bits do show


@pytest.mark.slow
@pytest.mark.parametrize("first", ["", "rotate ()"])  # tied, and not
def test_an_embedding_is_stored_as_wide_as_mnn_reads_it(tmp_path: Path, first: str) -> None:
    """Narrower than four bits, its lookup gives other rows; four bits hold three."""
    plan, bundle = tmp_path / "p.edge", tmp_path / "bundle"
    text = PLAN.format(model=MODELS / "pycode-qwen2", text=HELDOUT, target="mnn { memory = normal }")
    line = f"{first}\n  quantize (weights = int3, block = 32, method = mse)\n}}"
    plan.write_text(re.sub(r"  quantize.*?\n}", line, text, flags=re.DOTALL))
    done = edgec("compile", plan, "-o", bundle, "--quiet")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["models"]["m"]["arch"]["tied"] == (first == "")  # `rotate` unties
    stored = {row["name"]: (row["dtype"], row["bits"]) for row in manifest["models"]["m"]["weights"]}
    assert (stored.pop("embed_tokens"), stored.pop("lm_head")) == (("int4", 3), ("int3" if first else "int4", 3))
    assert set(stored.values()) == {("int3", 3)}
    checked = json.loads(edgec("verify", bundle, "--text", HELDOUT, "--windows", 2, "--json").stdout)
    assert checked["perplexity"]["m"] == pytest.approx(manifest["measured"]["perplexity"]["m"], rel=1e-3)


@pytest.mark.slow
def test_mixed_precision_stores_no_more_than_its_budget(tmp_path: Path) -> None:
    """4.5 bits are int4 in blocks of 32 with float16 scales; MNN's code books are within them too."""
    sizes, plan = {}, tmp_path / "p.edge"
    text = PLAN.format(model=MODELS / "pycode-qwen2", text=HELDOUT, target="mnn").replace("windows = 2", "windows = 1")
    text += f'calibration {{ text = "{HELDOUT}"  samples = 16  length = 128 }}\n'
    for weights in ("int4", "auto"):
        chosen = f"{weights}, bits = [3, 8]" if weights == "auto" else weights
        method = "gptq" if weights == "auto" else "rtn"  # which takes as much room
        line = f'  quantize (weights = {chosen}, method = {method})  except ["lm_head", "embed_tokens"]\n}}'
        plan.write_text(re.sub(r"  quantize.*?\n}", line, text, flags=re.DOTALL))
        done = edgec("compile", plan, "-o", tmp_path / weights, "--quiet")
        assert done.returncode == 0, done.stderr
        sizes[weights] = (tmp_path / weights / "m" / "llm.mnn.weight").stat().st_size
    manifest = json.loads((tmp_path / "auto" / "manifest.json").read_text())
    assert 8 in {row["bits"] for row in manifest["models"]["m"]["weights"]}  # whose code books are largest
    assert 0.97 * sizes["int4"] < sizes["auto"] <= sizes["int4"]
