"""The same model with outliers: a few channels of each norm scaled up by F, what reads them scaled down.

    python examples/models/outliers.py SOURCE OUT [--channels 4] [--factor 64 [--least 30]] [--mlp 0] [--seed 0]

    x' = x * f  (gain g * f),   W' = W / f     f = F on some channels of each norm in front of linears, 1 elsewhere

Large models have such channels of their own accord. F is a power of two and the weights are written as float32: the
logits are those of the model it was made from, while activations of few bits lose what is small beside the outliers.
With `--mlp N` as many channels inside each MLP are scaled too, between up_proj and down_proj: they spike where their
gate is open, at few positions. With `--least` each channel has a factor of its own from there up to F, any number, and
weights are rounded to float32.
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


def make(
    source: Path,
    out: Path,
    channels: int = 4,
    factor: float = 64.0,
    least: float | None = None,
    mlp: int = 0,
    seed: int = 0,
) -> Path:
    """Write the variant of the checkpoint `source` to the folder `out`."""
    rng = np.random.default_rng(seed)
    weights = {name: tensor.astype(np.float32) for name, tensor in load_file(source / "model.safetensors").items()}
    config = json.loads((source / "config.json").read_text())
    for layer in range(config["num_hidden_layers"]):
        for norm, readers in READERS.items():
            gain = weights[f"model.layers.{layer}.{norm}.weight"]
            factors = _factors(rng, len(gain), channels, factor, least)
            gain *= factors
            for reader in readers:
                weights[f"model.layers.{layer}.{reader}.weight"] /= factors
        if mlp:
            up, down = (f"model.layers.{layer}.mlp.{name}_proj.weight" for name in ("up", "down"))
            factors = _factors(rng, len(weights[up]), mlp, factor, least)
            weights[up] *= factors[:, None]
            weights[down] /= factors
    out.mkdir(parents=True)
    for path in source.glob("*.json"):
        shutil.copy(path, out)
    (out / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def _factors(rng: np.random.Generator, width: int, count: int, factor: float, least: float | None) -> np.ndarray:
    """1 but for `count` channels of `width`."""
    factors = np.ones(width, np.float32)
    chosen = rng.choice(width, count, replace=False)
    factors[chosen] = factor if least is None else rng.uniform(least, factor, count)
    return factors


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.least is None and np.frexp(args.factor)[0] != 0.5:
        parser.error("--factor has to be a power of two, so that no weight is rounded, unless --least is given")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--factor", type=float, default=64.0)
    parser.add_argument("--least", type=float)
    parser.add_argument("--mlp", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    _check(parser, args)
    make(**vars(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
