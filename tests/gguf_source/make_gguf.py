"""GGUF files written with the package `gguf` from Hugging Face folders, as llama.cpp's converter would."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from edgec.compiler.ir.decoder_arch import DecoderArch
from edgec.compiler.sources.gguf.gguf_tensors import stored_name
from edgec.compiler.sources.hf.load_hf import read_weights
from edgec.compiler.sources.hf.read_decoder_arch import read_arch

Type = gguf.GGMLQuantizationType
TypeOf = Callable[[str], Type]  # a tensor's type by its name in the Hugging Face folder
F32: TypeOf = lambda _name: Type.F32  # noqa: E731


def write_gguf(
    folder: Path,
    out: Path,
    type_of: TypeOf = F32,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray | None] | None = None,
) -> Path:
    """The model in `folder` as `out`. `metadata` and `tensors` replace or add entries; None leaves one out."""
    arch = read_arch(folder)
    fields = {**_architecture(arch), **_tokenizer(folder, arch), **(metadata or {})}
    writer = gguf.GGUFWriter(out, fields.pop("general.architecture"))
    for key, value in fields.items():
        if value is not None:
            _add(writer, key, value)
    values = {stored_name(name): (name, weight.numpy()) for name, weight in read_weights(arch, folder).items()}
    values |= {name: (name, array) for name, array in (tensors or {}).items()}
    for name, (ours, array) in values.items():
        if array is not None:
            kind = type_of(ours) if array.ndim > 1 else Type.F32
            packed = gguf.quants.quantize(np.ascontiguousarray(_permuted(ours, array, arch)), kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _permuted(name: str, array: np.ndarray, arch: DecoderArch) -> np.ndarray:
    """Rows of q and k as llama.cpp's converter stores them (`LlamaModel.permute`)."""
    if arch.family != "llama" or not (".q_proj." in name or ".k_proj." in name):
        return array
    heads = len(array) // arch.head_dim
    return array.reshape(heads, 2, len(array) // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def _architecture(arch: DecoderArch) -> dict[str, Any]:
    name = arch.family
    return {
        "general.architecture": name,
        f"{name}.block_count": arch.layers,
        f"{name}.context_length": arch.max_positions,
        f"{name}.embedding_length": arch.hidden,
        f"{name}.feed_forward_length": arch.intermediate,
        f"{name}.attention.head_count": arch.heads,
        f"{name}.attention.head_count_kv": arch.kv_heads,
        f"{name}.attention.key_length": arch.head_dim,
        f"{name}.attention.value_length": arch.head_dim,
        f"{name}.attention.layer_norm_rms_epsilon": arch.rms_eps,
        f"{name}.rope.dimension_count": arch.head_dim,
        f"{name}.rope.freq_base": arch.rope.theta,
        f"{name}.vocab_size": arch.vocab,
    }


def _tokenizer(folder: Path, arch: DecoderArch) -> dict[str, Any]:
    path = folder / "tokenizer.json"
    if not path.is_file():  # a model without text: any tokens will do
        return bytes_tokenizer(arch.vocab)
    document = json.loads(path.read_text(encoding="utf-8"))
    special = {token["id"] for token in document["added_tokens"]}
    tokens = sorted(document["model"]["vocab"].items(), key=lambda row: row[1])
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [token for token, _ in tokens],
        "tokenizer.ggml.token_type": [3 if index in special else 1 for _, index in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in document["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": arch.bos,
        "tokenizer.ggml.eos_token_id": arch.eos[0],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template"),
    }


def bytes_tokenizer(vocab: int) -> dict[str, Any]:
    """A SentencePiece vocabulary of `<unk>`, `<s>`, `</s>` and single characters."""
    tokens = ["<unk>", "<s>", "</s>", *(chr(0x4E00 + i) for i in range(vocab - 3))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * vocab,
        "tokenizer.ggml.token_type": [2, 3, 3, *([1] * (vocab - 3))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
