"""Emitting streams: a model larger than the memory it is given. What the plan says of the cache."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.driver import compile_plan, estimate_plan, load_plan

MODELS = Path(__file__).parents[2] / "examples" / "models"

SHAPE = {
    "model_type": "qwen3",
    "vocab_size": 60000,
    "hidden_size": 1024,
    "num_hidden_layers": 1,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "tie_word_embeddings": True,
}
CODE = """
import sys
from pathlib import Path
from edgec.compiler.emit.child_process import peak_rss
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.quantize import Quantize
from edgec.targets.mnn.decoder.emit_llm import emit_llm

module = load_hf("m", Path(sys.argv[1]), 128)
before = peak_rss()
if sys.argv[3] != "float":
    Quantize(weights=sys.argv[3], block=16, symmetric=False).run(module, Scope())
emit_llm(module, Path(sys.argv[2]), "low", 1)
print((peak_rss() - before) >> 10)
"""


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["float", "int4"])
def test_an_embedding_of_246_megabytes_is_streamed(weights, random_model, tmp_path):
    module = random_model(scale=0.02, **SHAPE)
    matrix = module.main.graph.initializers["embed_tokens.weight"].const_value
    assert 4 * np.prod(matrix.dims) > 245e6
    arguments = [str(module.source), str(tmp_path / "out"), weights]
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True)
    # scales and zero points of blocks of 16 are an eighth of the float32 matrix, 31 MB, and are held twice
    assert int(done.stdout) < 150 * 1024


@pytest.mark.parametrize(
    ("machine", "device", "width"), [("x86_64", "host", 4), ("aarch64", "host", 2), ("x86_64", "sm8650", 2)]
)
def test_the_cache_is_planned_in_what_the_cpu_computes_in(tmp_path, monkeypatch, machine, device, width):
    """Counted on x86-64 (benchmarks/allocated.py): 4 bytes a value."""
    monkeypatch.setattr("edgec.targets.mnn.platform.machine", lambda: machine)
    plan = tmp_path / "plan.edge"
    lines = f"""
device {device}
model m {{ source = hf("{MODELS}/pycode-qwen2") context = 64 }}
pipeline p {{ quantize (weights = int8) }}
deploy m on cpu through p as mnn
"""
    plan.write_text(lines)
    data = json.loads((compile_plan(load_plan(plan), tmp_path / "bundle").bundle / "manifest.json").read_text())
    arch = data["models"]["m"]["arch"]
    assert data["memory"]["m"]["kv_held"] == 2 * arch["layers"] * arch["kv_heads"] * arch["head_dim"] * 64 * width


@pytest.mark.parametrize("target", ["mnn", "ort"])
@pytest.mark.parametrize("table", ['except ["lm_head", "embed_tokens"]', ""], ids=["floats", "integers"])
def test_an_estimate_counts_a_table_that_is_the_head_once_as_the_files_do(tmp_path, target, table):
    plan = tmp_path / "plan.edge"
    lines = f"""
device host
model m {{ source = hf("{MODELS}/pycode-qwen3") context = 64 }}
pipeline p {{ quantize (weights = int8) {table}
}}
deploy m on cpu through p as {target}
"""
    plan.write_text(lines)
    estimated = estimate_plan(load_plan(plan)).memory["m"]
    bundle = compile_plan(load_plan(plan), tmp_path / "bundle").bundle
    stored = json.loads((bundle / "manifest.json").read_text())["memory"]["m"]
    assert 0.94 * stored["weights"] < estimated["weights"] <= stored["weights"]
    assert estimated["kv_held"] == stored["kv_held"]
