"""The models that ways of quantising are compared on: a folder, what to calibrate with, and held-out text.

`smollm2` is the dequantised float model of the GGUF that benchmarks/real.py takes, written as a Hugging Face folder
under .peers/ (538 MB) for the tools that read nothing else, with that benchmark's two texts.
"""

from __future__ import annotations

import json
import shutil
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import real
from common import HELDOUT, MODELS, ROOT
from judge import WINDOWS

if TYPE_CHECKING:
    from edgec.compiler.calibration.calibration_text import Calibration
    from edgec.compiler.ir.module import Module

SMOLLM2 = "smollm2"
_FOLDER = ROOT / ".peers" / SMOLLM2
_REAL_WINDOWS = 32  # to judge on: a window of this model takes a second


@dataclass(frozen=True)
class Subject:
    """A model in `folder`, calibrated on `calibration`, judged on the first `windows` windows of `text`."""

    folder: Path
    calibration: tuple[Path, ...]
    text: str
    windows: int

    def module(self) -> Module:
        """The float model."""
        from edgec.compiler.sources.hf.load_hf import load_hf

        return load_hf("m", self.folder, 512)

    def ids(self) -> list[int]:
        """The held-out text."""
        from edgec.compiler.oracle.text_perplexity import token_ids

        return token_ids(self.folder, self.text)

    def calibrated(self) -> Calibration:
        """128 windows of 256 tokens."""
        from edgec.compiler.calibration.calibration_text import Calibration
        from edgec.compiler.diagnostics.diagnostic import Span

        return Calibration(self.calibration, 128, 256, 0, Span("quality", 1, 1, 1, 1))


def training_files() -> tuple[Path, ...]:
    """The standard library's modules that are not held out, tests left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    held = set((HELDOUT.parent / "heldout_modules.txt").read_text().split())
    return tuple(path for path in sorted(root.rglob("*.py")) if _is_training(path, path.relative_to(root), held))


def _is_training(path: Path, module: Path, held: set[str]) -> bool:
    if module.as_posix() in held or {"site-packages", "test", "tests"} & set(module.parts):
        return False
    try:
        return bool(path.read_bytes().decode("utf-8").strip())
    except UnicodeDecodeError:
        return False


@cache
def subject(name: str) -> Subject:
    """By the name that tables have: an example model's, or `smollm2`."""
    if name != SMOLLM2:
        return Subject(MODELS / name, training_files(), HELDOUT.read_text(), WINDOWS)
    judged, other = real.texts()
    text = _FOLDER / "calibration.txt"
    if not text.exists():
        _write(_FOLDER)
        text.write_text(other)
    return Subject(_FOLDER, (text,), judged, _REAL_WINDOWS)


def _write(folder: Path) -> None:
    """The GGUF's model in float32 as transformers reads it."""
    from edgec.compiler.ir.linears import linears
    from edgec.compiler.sources.gguf.load_gguf import load_gguf
    from safetensors.numpy import save_file

    module = load_gguf("m", real.model_file(), 512)
    assert module.arch is not None
    assert module.tokenizer_folder is not None
    arch, initializers = module.arch, module.main.graph.initializers
    norms = {name: initializers[name].const_value for name in initializers if name.endswith("norm.weight")}
    weights = {f"{linear.name}.weight": linear.weight() for linear in linears(module) if linear.name != "lm_head"}
    tensors = {f"model.{name}": np.ascontiguousarray(w.numpy(), np.float32) for name, w in {**norms, **weights}.items()}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": arch.hidden,
        "intermediate_size": arch.intermediate, "num_hidden_layers": arch.layers, "num_attention_heads": arch.heads,
        "num_key_value_heads": arch.kv_heads, "head_dim": arch.head_dim, "vocab_size": arch.vocab,
        "max_position_embeddings": arch.max_positions, "rms_norm_eps": arch.rms_eps, "rope_theta": arch.rope.theta,
        "tie_word_embeddings": arch.tied, "bos_token_id": arch.bos, "eos_token_id": arch.eos[0], "dtype": "float32",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(module.tokenizer_folder / name, folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
