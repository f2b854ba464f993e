"""Models for the MNN tests: the two trained ones, and random ones of any shape."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import Module
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.sources.hf.read_decoder_arch import read_arch
from edgec.passes.quantize import Quantize
from safetensors.numpy import save_file

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
HEAD = ("lm_head", "embed_tokens")
VOCAB = 131


def quantized(module: Module, *, but: tuple[str, ...] = (), on: tuple[str, ...] | None = None, **how: Any) -> Module:
    Quantize(**how).run(module, Scope(on=on, except_=but))
    module.level = Level.COMPRESSED
    return module


@pytest.fixture
def random_model(tmp_path: Path) -> Callable[..., Module]:
    """A random decoder of the family and sizes given, its weights exact in float16, with a trained one's tokenizer."""

    def make(scale: float = 0.2, **config: Any) -> Module:
        folder = tmp_path / "random"
        folder.mkdir()
        whole = {
            "vocab_size": VOCAB,
            "num_hidden_layers": 2,
            "intermediate_size": 37,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "rope_theta": 700.0,
            "eos_token_id": [3, 5],
            **config,
        }
        (folder / "config.json").write_text(json.dumps(whole))
        rng = np.random.default_rng(0)
        tensors = {}
        for name, shape in read_arch(folder).tensors().items():
            array = rng.normal(size=shape) * (scale if len(shape) > 1 else 0.5) + ("norm" in name)
            tensors[name if name.startswith("lm_head") else f"model.{name}"] = array.astype(np.float16).astype(
                np.float32
            )
        save_file(tensors, folder / "model.safetensors")
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(MODELS / "pycode-qwen3" / file, folder / file)
        return load_hf("random", folder, 128)

    return make
