"""A tiny random decoder of each family, with the tokenizer of a trained one, for what comes behind loading."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgec.compiler.ir.module import Module
from edgec.compiler.sources.fused import split
from edgec.compiler.sources.hf.families import FAMILIES
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.sources.hf.read_decoder_arch import read_arch
from safetensors.numpy import save_file

TOKENIZER = Path(__file__).resolve().parents[2] / "examples" / "models" / "pycode-qwen3"
CONTEXT = 64
_BASE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "vocab_size": 2048,
}
_OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "mistral-window": {"sliding_window": 6},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "smollm3": {"no_rope_layers": [1, 0], "pad_token_id": 0},
    "phi3": {"sliding_window": None, "pad_token_id": 0},
    "gemma3_text": {
        "head_dim": 16,
        "query_pre_attn_scalar": 20,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"],
        "hidden_activation": "gelu_pytorch_tanh",
    },
}
KINDS = tuple(_OWN)


def write_random(kind: str, folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """The files of a model of `kind`, one of KINDS, its weights exact in float16; `changes` to its config."""
    family = kind.partition("-")[0]
    (folder / "config.json").write_text(json.dumps({"model_type": family, **_BASE, **_OWN[kind], **(changes or {})}))
    rng, offset = np.random.default_rng(0), FAMILIES[family].gain_offset
    tensors = {}
    shapes, _ = split(read_arch(folder).tensors(), FAMILIES[family].fused)
    for name, shape in shapes.items():
        array = rng.normal(size=shape) * 0.15 + (1.0 - offset if "norm" in name else 0.0)
        stored = name if name.startswith("lm_head") else f"model.{name}"
        tensors[stored] = array.astype(np.float16).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / file, folder / file)
    return folder


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """folder_of(kind): the files of a model, made once."""
    return functools.cache(lambda kind: write_random(kind, tmp_path_factory.mktemp(kind)))


@pytest.fixture(scope="session")
def model_of(folder_of: Callable[[str], Path]) -> Callable[[str], Module]:
    """model_of(kind): a fresh module."""
    return lambda kind: load_hf(kind, folder_of(kind), CONTEXT)
