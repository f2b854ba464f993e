"""A Hugging Face folder (config.json + safetensors) to a module at level `semantic`. No torch, no export trace.

Only headers are read here; the weights stay in their files and are cast to float32 as someone asks for rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...diagnostics.diagnostic import fail
from ...ir.annotations import Transform
from ...ir.decoder_arch import DecoderArch
from ...ir.levels import Level
from ...ir.module import MAIN, Module
from ...ir.weights import Weight, cast, derive
from ..finite_rows import finite
from ..fused import rows_of, split
from ..source import check_context
from .checkpoint import EMBEDDING, HEAD, find_tensors
from .convert_tokenizer import converted
from .decoder_graph import build
from .families import FAMILIES
from .quantised.parts import QuantisedTensor
from .read_decoder_arch import read_arch
from .safetensors_index import StoredTensor


def load_hf(name: str, folder: Path, context: int) -> Module:
    """The decoder in `folder` under the plan's name for it."""
    arch = read_arch(folder).within(context)
    check_context(arch, context, folder)
    graph = build(arch, read_weights(arch, folder), context)
    graph.graph.name = name
    text = converted(folder) or folder
    return Module(name, {MAIN: graph}, Level.SEMANTIC, arch, folder, context, tokenizer_folder=text)


def read_weights(arch: DecoderArch, folder: Path) -> dict[str, Weight]:
    """A lazy float32 weight for each tensor of `arch`; what is missing, extra or of another shape is an error."""
    found = find_tensors(arch, folder)
    if arch.tied and HEAD in found:
        _check_tied(found.pop(HEAD), found[EMBEDDING])
    family = FAMILIES[arch.family]
    stored = {name: _weight(name, tensor) for name, tensor in found.items()}
    _, parts = split(arch.tensors(), family.fused)
    weights = {
        name: rows_of(name, stored[parts[name].name], parts[name]) if name in parts else stored[name]
        for name in arch.tensors()
    }
    if family.gain_offset:
        for name in weights:
            if name.endswith("norm.weight"):
                weights[name] = _offset(weights[name], family.gain_offset)
    return weights


def _offset(gain: Weight, offset: float) -> Weight:
    """A norm's gain that is stored as its difference from `offset`."""
    add = np.float32(offset)
    return derive(
        gain.name,
        gain.dtype,
        gain.dims,
        lambda a, b: gain.rows(a, b) + add,
        gain,
        Transform.MEASURE,
        f"{offset:g} added",
    )


def _weight(name: str, stored: StoredTensor | QuantisedTensor) -> Weight:
    """The stored tensor as float32; reading rows that hold NaN or infinity is an error, whoever reads them."""
    if isinstance(stored, QuantisedTensor):
        from .quantised.integers import float_weight

        return float_weight(name, stored)
    weight = cast(stored.weight(), ir.DataType.FLOAT)
    weight.name = name
    return finite(weight, stored.name, stored.file.path)


def _check_tied(head: StoredTensor | QuantisedTensor, embedding: StoredTensor | QuantisedTensor) -> None:
    """A tied checkpoint may store its head as well, but only as a copy."""
    same = head.shape == embedding.shape
    if same and head.shape:
        first, second = _weight(HEAD, head), _weight(EMBEDDING, embedding)
        same = all(np.array_equal(block, second.rows(at, at + len(block))) for at, block in first.blocks())
    if not same:
        file = head.parts["q"].file if isinstance(head, QuantisedTensor) else head.file
        message = f"`{file.path}` has an `{head.name}` that differs from the embedding it is tied to"
        fail("E0344", message, help="set `tie_word_embeddings` to false in config.json if the head is its own")
