"""The embedding of an MNN-LLM bundle: E[V,H], looked up by the engine row by row from a file.

    quantised          integers and alphas in the weight file (the head's own, if it is tied)    bits 4, 8
    float, tied        the head's halves in the weight file                                      16
    float, exact bf16  embeddings_bf16.bin, raw [V,H]
    float, otherwise   halves in the weight file; embeddings_bf16.bin if float16 would overflow

`tie_embeddings` of llm_config.json says where in the weight file: the engine takes it for any embedding that lies
there, tied or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ....compiler.ir.linears import Linear
from ....compiler.ir.weights import Weight
from . import weight_blobs as blobs
from .weight_blobs import Blob

BF16_FILE = "embeddings_bf16.bin"


def write_embedding(
    linear: Linear, file: BinaryIO, written: Mapping[str, Blob], linears: Mapping[str, Linear], folder: Path
) -> tuple[dict[str, Any], Blob | None, str]:
    """Returns the fields for llm_config.json, where the rows lie (None: in their own file) and the storage in words."""
    blob = next((written[name] for name, other in linears.items() if other.initializer is linear.initializer), None)
    tied = blob is not None and (linear.quant is not None or blob.bits == 16)
    if linear.quant is not None:
        blob = blob if blob is not None else blobs.write_quantized(file, linear.quant, looked_up=True)
    elif not tied:
        weight = linear.weight()
        if _is_bf16(weight) or not blobs.fits_half(weight):
            _write_bf16(weight, folder / BF16_FILE)
            return {}, None, "bfloat16"
        blob = blobs.write_float(file, weight)
    if blob is None:
        raise ValueError(f"`{linear.name}` has no place in the weight file")
    return {"tie_embeddings": _place(blob)}, blob, blob.describe() + (", shared with the head" if tied else "")


def _place(blob: Blob) -> dict[str, Any]:
    alpha = blob.offset + blob.code_bytes
    return {
        "weight_offset": blob.offset + blob.header_bytes,
        "alpha_offset": alpha,
        "alpha_size": blob.alpha_bytes,
        "quant_bit": blob.bits,
        "quant_block": 0 if blob.block in (0, blob.columns) else blob.block,
        "alpha_dtype": "fp16" if blob.half_alpha else "fp32",
    }


def _is_bf16(weight: Weight) -> bool:
    return all(not (_bits(block) & 0xFFFF).any() for _, block in weight.blocks())


def _write_bf16(weight: Weight, path: Path) -> None:
    """Round to nearest, ties to even."""
    with path.open("wb") as file:
        for _, block in weight.blocks():
            bits = _bits(block).astype(np.uint32)
            file.write(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes())


def _bits(block: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(block, np.float32).view(np.uint32)
