"""The models that ways of quantising are compared on: a folder, what to calibrate with, and held-out text.

`smollm2` is the dequantised float model of the GGUF that benchmarks/real.py takes, written as a Hugging Face folder
under .peers/ (538 MB) for the tools that read nothing else, with that benchmark's two texts. `smollm2-first6` is the
same model with its first six layers to be quantised and the others left in float: a fifth of the time, for methods
that go layer by layer. Tools get those six as a model of their own, and what they make is judged in the whole one.
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
SMOLLM2_FIRST = "smollm2-first6"
_FIRST = 6
_FOLDER, _FIRST_FOLDER = ROOT / ".peers" / SMOLLM2, ROOT / ".peers" / SMOLLM2_FIRST
_REAL_WINDOWS = 32  # to judge on: a window of this model takes a second


@dataclass(frozen=True)
class Subject:
    """A model in `folder`, calibrated on `calibration`, judged on the first `windows` windows of `text`.

    `part`: a folder with the first `layers` of them alone, which are all that is quantised.
    """

    folder: Path
    calibration: tuple[Path, ...]
    text: str
    windows: int
    part: Path | None = None
    layers: int = 0

    @property
    def on(self) -> tuple[str, ...] | None:
        """The globs of what is quantised; None: everything."""
        return tuple(f"layers.{layer}.*" for layer in range(self.layers)) if self.part else None

    def put_together(self, made: Path) -> None:
        """Turn a folder `made` of `part` into one of the whole model, in place."""
        from safetensors.numpy import load_file, save_file

        if self.part is None:
            return
        whole, own = load_file(self.folder / "model.safetensors"), load_file(made / "model.safetensors")
        whole |= {name: tensor for name, tensor in own.items() if ".layers." in name}
        save_file(whole, made / "model.safetensors", metadata={"format": "pt"})
        shutil.copy(self.folder / "config.json", made)

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
    """By the name that tables have: an example model's, `smollm2` or `smollm2-first6`."""
    if name not in (SMOLLM2, SMOLLM2_FIRST):
        return Subject(MODELS / name, training_files(), HELDOUT.read_text(), WINDOWS)
    judged, other = real.texts()
    text = _FOLDER / "calibration.txt"
    if not text.exists():
        _write(_FOLDER)
        text.write_text(other)
    if name == SMOLLM2:
        return Subject(_FOLDER, (text,), judged, _REAL_WINDOWS)
    if not _FIRST_FOLDER.exists():
        _write_first(_FOLDER, _FIRST_FOLDER)
    return Subject(_FOLDER, (text,), judged, _REAL_WINDOWS, _FIRST_FOLDER, _FIRST)


def _write_first(whole: Path, folder: Path) -> None:
    """The first layers of `whole` as a model."""
    from safetensors.numpy import load_file, save_file

    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(whole / name, folder)
    config = json.loads((whole / "config.json").read_text()) | {"num_hidden_layers": _FIRST}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    last = tuple(f"model.layers.{layer}." for layer in range(_FIRST))
    tensors = load_file(whole / "model.safetensors")
    own = {name: tensor for name, tensor in tensors.items() if ".layers." not in name or name.startswith(last)}
    save_file(own, folder / "model.safetensors", metadata={"format": "pt"})


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
