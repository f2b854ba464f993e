"""Emitting streams: a model larger than the memory it is given."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

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
