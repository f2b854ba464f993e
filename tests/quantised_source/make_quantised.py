"""Quantised checkpoints written from the formats' public descriptions, with nothing of edgec's.

    GPTQ                 AutoGPTQ's and gptqmodel's `pack`: words hold integers of consecutive inputs, low bits first
    AWQ                  AutoAWQ's WQLinear_GEMM and WQLinear_GEMV
    compressed-tensors   `pack_to_int32`: unsigned integers, dense in 32-bit words

`test_peers.py` compares these writers with the libraries' own packers where those are installed. Everything here is
integers first: random u, z and s; the floats are what they stand for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # field i of a word holds output ORDER[i]


@dataclass(frozen=True)
class Form:
    """One way to store linears; `group` None: all inputs of an output share a scale."""

    method: str
    bits: int = 4
    group: int | None = 32
    symmetric: bool = True
    act_order: bool = False
    version: str = ""  # gptq: gptq or gptq_v2; awq: gemm or gemv

    @property
    def label(self) -> str:
        sign = "sym" if self.symmetric else "asym"
        words = [self.method, self.version, f"int{self.bits}", f"g{self.group or 'all'}", sign]
        return "-".join(filter(None, [*words, "act" if self.act_order else ""]))


@dataclass(frozen=True)
class Integers:
    """u [N, K], z [N, G] without sign, s float16 [N, G], g [K]: the group of an input."""

    u: np.ndarray
    z: np.ndarray
    s: np.ndarray
    g: np.ndarray

    @property
    def value(self) -> np.ndarray:
        return (self.u - self.z[:, self.g]).astype(np.float32) * self.s.astype(np.float32)[:, self.g]


def words(values: np.ndarray, bits: int) -> np.ndarray:
    """[R, C] -> int32 [R, ceil(C * bits / 32)]: one stream of bits for each row, the first integer lowest."""
    out = np.zeros((values.shape[0], -(-values.shape[1] * bits // 32)), np.uint64)
    for index in range(values.shape[1]):
        word, shift = divmod(index * bits, 32)
        field = values[:, index].astype(np.uint64) << np.uint64(shift)
        out[:, word] |= field & np.uint64(0xFFFFFFFF)
        if shift + bits > 32:
            out[:, word + 1] |= field >> np.uint64(32)
    return out.astype(np.uint32).view(np.int32)


def awq_words(values: np.ndarray) -> np.ndarray:
    """[R, C] of 4 bits -> int32 [R, C / 8], each eight in AWQ's order."""
    return words(values.reshape(len(values), -1, 8)[:, :, AWQ_ORDER].reshape(values.shape), 4)


def gptq_zeros(form: Form, z: np.ndarray) -> np.ndarray:
    """Format `gptq` takes one off each zero point: off whole words, or integer by integer where they cross words."""
    if form.version == "gptq" and form.bits == 3:
        return words((z - 1) % 8, 3)
    ones = sum(1 << place for place in range(0, 32, form.bits)) if form.version == "gptq" else 0
    return (words(z, form.bits).view(np.uint32) - np.uint32(ones)).view(np.int32)


def random_integers(form: Form, n: int, k: int, rng: np.random.Generator) -> Integers:
    """Integers of a weight of about 1 / sqrt(K)."""
    top = 1 << form.bits
    group = form.group or k
    groups = -(-k // group)
    z = np.full((n, groups), top // 2)
    if not form.symmetric:
        z = rng.integers(0, top, (n, groups))
    u = np.clip(np.rint(rng.normal(z.mean(), top / 4, (n, k))), 0, top - 1).astype(np.int64)
    s = (rng.uniform(0.5, 1.5, (n, groups)) * 4 / top / k**0.5).astype(np.float16)
    g = np.arange(k) // group
    return Integers(u, z, s, rng.permutation(g) if form.act_order else g)


def parts(form: Form, made: Integers, dtype: Any = np.float16) -> dict[str, np.ndarray]:
    """The tensors of one linear, by the end of their names."""
    s = made.s.astype(dtype)
    if form.method == "compressed-tensors":
        tensors = {
            "weight_packed": words(made.u, form.bits),
            "weight_scale": s,
            "weight_shape": np.array(made.u.shape, np.int64),
        }
        if not form.symmetric:
            tensors["weight_zero_point"] = words(made.z.T, form.bits).T
        return tensors
    if form.version == "gemv":
        fields = max(8, 8 * {64: 2, 32: 4}.get(form.group or 128, 1))
        wide = -(-made.z.shape[1] // fields) * fields
        pad = ((0, 0), (0, wide - made.z.shape[1]))
        return {"qweight": words(made.u, 4), "qzeros": words(np.pad(made.z, pad), 4), "scales": np.pad(s, pad)}
    if form.method == "awq":
        return {"qweight": awq_words(made.u.T), "qzeros": awq_words(made.z.T), "scales": s.T}
    return {
        "qweight": words(made.u, form.bits).T,
        "qzeros": gptq_zeros(form, made.z.T),
        "scales": s.T,
        "g_idx": made.g.astype(np.int32),
    }


def config_of(form: Form) -> dict[str, Any]:
    """The `quantization_config` that tools of the format write."""
    size = form.group or -1
    if form.method == "gptq":
        common = {"bits": form.bits, "group_size": size, "sym": form.symmetric, "desc_act": form.act_order}
        return {"quant_method": "gptq", "checkpoint_format": form.version, **common}
    if form.method == "awq":
        common = {"bits": 4, "group_size": size, "zero_point": True, "modules_to_not_convert": None}
        return {"quant_method": "awq", "version": form.version, **common}
    weights = {"num_bits": form.bits, "type": "int", "symmetric": form.symmetric, "dynamic": False}
    weights |= {"strategy": "group", "group_size": form.group} if form.group else {"strategy": "channel"}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }


def write_quantised(
    folder: Path,
    out: Path,
    form: Form | Callable[[str], Form | None],
    config: dict[str, Any] | None = None,
    seed: int = 0,
    change: Callable[[dict[str, np.ndarray]], Any] | None = None,
) -> dict[str, np.ndarray]:
    """The model in `folder` with random integers as its linears (the head stays float), in `out`.

    `form` may depend on the linear; `config` replaces the quantization_config; `change` edits the stored tensors.
    Returns the float weights by edgec's names.
    """
    from edgec.compiler.sources.hf.load_hf import read_weights
    from edgec.compiler.sources.hf.read_decoder_arch import read_arch

    arch = read_arch(folder)
    rng = np.random.default_rng(seed)
    form_of = form if callable(form) else lambda name: None if name == "lm_head" else form
    floats = {name: weight.numpy() for name, weight in read_weights(arch, folder).items()}
    stored = {name if name.startswith("lm_head") else f"model.{name}": array for name, array in floats.items()}
    for name, (n, k) in arch.linears().items():
        own = form_of(name)
        if own is None or f"{name}.weight" not in floats:
            continue
        integers = random_integers(own, n, k, rng)
        module = name if name == "lm_head" else f"model.{name}"
        del stored[f"{module}.weight"]
        stored |= {f"{module}.{end}": array for end, array in parts(own, integers).items()}
        floats[f"{name}.weight"] = integers.value
    if change is not None:
        change(stored)
    out.mkdir(exist_ok=True)
    own = json.loads((folder / "config.json").read_text())
    if config is None:
        config = config_of(next(f for name in arch.linears() if (f := form_of(name)) is not None))
    own["quantization_config"] = config
    (out / "config.json").write_text(json.dumps({key: value for key, value in own.items() if value != {}}))
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            (out / name).write_bytes((folder / name).read_bytes())
    save_file({name: np.ascontiguousarray(array) for name, array in stored.items()}, out / "model.safetensors")
    return floats


def variants() -> list[Form]:
    """One of each kind: methods, widths, groups, zero points."""
    gptq = [Form("gptq", bits, 32, version="gptq") for bits in (2, 3, 4, 8)]
    gptq += [replace(one, symmetric=False, version="gptq_v2") for one in gptq]
    gptq += [Form("gptq", 4, group, symmetric=False, version="gptq") for group in (None, 32, 64, 128)]
    awq = [Form("awq", 4, group, False, version=version) for version in ("gemm", "gemv") for group in (32, 64, 128)]
    packed = [
        Form("compressed-tensors", bits, group, symmetric)
        for bits, group in ((4, 32), (4, 128), (4, None), (8, None), (8, 128), (3, 64), (6, 32))
        for symmetric in (True, False)
    ]
    return [*gptq, Form("gptq", 4, 32, act_order=True, version="gptq"), *awq, *packed]
