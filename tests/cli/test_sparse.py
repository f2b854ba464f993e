"""A sparse model through the command line: what is printed, stated in the bundle, and shown by `inspect`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLAN = f"""plan s
device snapdragon_8_gen_3
model m {{ source = hf("{ROOT}/examples/models/pycode-qwen2")  context = 128 }}
calibration {{ text = "{ROOT}/examples/text/calibration.txt"  samples = 8  length = 64 }}
pipeline p {{
  sparsify (pattern = 2:4, method = sparsegpt, swaps = true)  on "layers.*.mlp.*_proj"
  quantize (weights = int4, block = 32, method = mse)         on "layers.*"
}}
deploy m on cpu through p as TARGET
"""


def edgec(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgec.compiler.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_bundle_states_the_pattern_and_the_output_what_it_cost(tmp_path: Path) -> None:
    plan = tmp_path / "plan.edge"
    for target in ("ort", "mnn"):
        plan.write_text(PLAN.replace("TARGET", target))
        bundle = tmp_path / target
        done = edgec("compile", plan, "-o", bundle)
        assert done.returncode == 0, done.stderr
        assert "warning[W0308]" in done.stderr
        assert "6 weights are 2:4 by sparsegpt, swaps: perplexity on the calibration text goes from" in done.stdout
        formats = json.loads(edgec("inspect", bundle, "--json").stdout)["models"]["m"]["formats"]
        assert formats["int4 block 32 symmetric, sparsity 2:4"] == 6
        assert formats["int4 block 32 symmetric"] == 8
        assert "sparsity 2:4" in (bundle / "report.html").read_text()


def test_the_example_is_a_plan() -> None:
    done = edgec("check", ROOT / "examples" / "sparse" / "plan.edge")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
