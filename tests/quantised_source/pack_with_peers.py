"""Makes `packed.safetensors` with the libraries' own packers; no test runs it.

In an environment with torch, transformers, gptqmodel 7.7.0, autoawq 0.2.9 and compressed-tensors 0.20.0:

    python -m tests.quantised_source.pack_with_peers tests/quantised_source/packed.safetensors

It holds the tensors of one linear [32, 128] for each form, `FORM/qweight` and so on, as the library packs them, and as
`FORM/value` the floats that the same library unpacks them to, rounded to float16.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from .make_quantised import Form, Integers
from .packed_forms import K, N, packed_integers


def linear(made: Integers) -> torch.nn.Linear:
    """The float layer that a packer is given."""
    layer = torch.nn.Linear(K, N, bias=False)
    layer.weight.data = torch.from_numpy(made.value)
    return layer


def gptq(form: Form, made: Integers) -> dict[str, torch.Tensor]:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module, convert_gptq_v2_to_v1_format_module

    layer = TorchLinear(form.bits, form.group, form.symmetric, form.act_order, K, N, bias=False, register_buffers=True)
    s, z = torch.from_numpy(made.s.astype(np.float32)), torch.from_numpy(made.z.astype(np.float32))
    layer.pack_original(linear(made), s, z, torch.from_numpy(made.g.astype(np.int32)))
    if form.version == "gptq":
        convert_gptq_v2_to_v1_format_module(layer, config(form))
    tensors = {name: getattr(layer, name).clone() for name in ("qweight", "qzeros", "scales", "g_idx")}
    if form.version == "gptq":
        convert_gptq_v1_to_v2_format_module(layer, form.bits, torch.int32)
    layer.post_init()
    return {**tensors, "value": layer.dequantize_weight().T.float()}


def config(form: Form):
    from gptqmodel import QuantizeConfig

    return QuantizeConfig(bits=form.bits, group_size=form.group, sym=form.symmetric, desc_act=form.act_order)


def awq(form: Form, made: Integers) -> dict[str, torch.Tensor]:
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.modules.linear.gemv import WQLinear_GEMV
    from awq.utils.packing_utils import dequantize_gemm

    s, z = torch.from_numpy(made.s), torch.from_numpy(made.z)
    gemm = form.version == "gemm"
    cls = WQLinear_GEMM if gemm else WQLinear_GEMV
    packed = cls.from_linear(linear(made), 4, form.group, False, s.T if gemm else s, z.T if gemm else z)
    tensors = {name: getattr(packed, name).contiguous() for name in ("qweight", "qzeros", "scales")}
    other = WQLinear_GEMM.from_linear(linear(made), 4, form.group, False, s.T, z.T)  # gemv has no unpacking
    value = dequantize_gemm(other.qweight, other.qzeros, other.scales.float(), 4, form.group).T
    return {**tensors, "value": value}


def compressed(form: Form, made: Integers) -> dict[str, torch.Tensor]:
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor as Packer
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    strategy = {"strategy": "group", "group_size": form.group} if form.group else {"strategy": "channel"}
    args = QuantizationArgs(num_bits=form.bits, type="int", symmetric=form.symmetric, **strategy)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    half = 1 << (form.bits - 1)
    state = {
        "weight": torch.from_numpy(made.value),
        "weight_scale": torch.from_numpy(made.s.astype(np.float32)),
        "weight_zero_point": torch.from_numpy((made.z - half).astype(np.int8)),
    }
    packed = Packer.compress(state, scheme)
    return {**packed, "value": Packer.decompress(packed, scheme)["weight"].float()}


if __name__ == "__main__":
    found = {}
    packers = {"gptq": gptq, "awq": awq, "compressed-tensors": compressed}
    for form, made in packed_integers():
        tensors = packers[form.method](form, made)
        tensors["value"] = tensors["value"].half()
        found |= {f"{form.label}/{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(found, Path(sys.argv[1]))
