"""The same model with outliers: a few channels of each norm scaled up by F, what reads them scaled down.

    python examples/models/outliers.py examples/models/pycode-qwen3 OUT [--channels 4] [--factor 64] [--seed 0]

    x' = x * f  (gain g * f),   W' = W / f     f = F on some channels of each norm in front of linears, 1 elsewhere

Large models have such channels of their own accord. F is a power of two and the weights are written as float32: the
logits are those of the model it was made from, while activations of few bits lose what is small beside the outliers.
The norm in front of the head is left alone, for a head may share its weight with the embedding.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def make(source: Path, out: Path, channels: int = 4, factor: float = 64.0, seed: int = 0) -> Path:
    """Write the variant of the checkpoint `source` to the folder `out`."""
    rng = np.random.default_rng(seed)
    weights = {name: tensor.astype(np.float32) for name, tensor in load_file(source / "model.safetensors").items()}
    config = json.loads((source / "config.json").read_text())
    for layer in range(config["num_hidden_layers"]):
        for norm, readers in READERS.items():
            gain = weights[f"model.layers.{layer}.{norm}.weight"]
            factors = np.ones_like(gain)
            factors[rng.choice(len(gain), channels, replace=False)] = factor
            gain *= factors
            for reader in readers:
                weights[f"model.layers.{layer}.{reader}.weight"] /= factors
    out.mkdir(parents=True)
    for path in source.glob("*.json"):
        shutil.copy(path, out)
    (out / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def _power_of_two(text: str) -> float:
    value = float(text)
    if np.frexp(value)[0] != 0.5:
        raise argparse.ArgumentTypeError("must be a power of two, so that no weight is rounded")
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--factor", type=_power_of_two, default=64.0)
    parser.add_argument("--seed", type=int, default=0)
    make(**vars(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
