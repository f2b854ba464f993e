"""A GGUF file to a module at level `semantic`: the graph from its metadata, the weights left in the file.

Only the header is read here. Rows of a weight are read and dequantised as someone asks for them.
"""

from __future__ import annotations

from pathlib import Path

from ...ir.decoder_arch import DecoderArch
from ...ir.levels import Level
from ...ir.module import MAIN, Module
from ...ir.stored_integers import STORED
from ...ir.weights import Weight
from ..hf.decoder_graph import build
from ..source import check_context
from .gguf_file import StoredBlocks, read_gguf
from .gguf_integers import integers_of
from .gguf_tensors import find_gguf_tensors, float_weight
from .read_gguf_arch import read_gguf_arch
from .text_files import text_files
from .tokenizer_json import check_tokenizer


def load_gguf(name: str, path: Path, context: int) -> Module:
    """The decoder in the GGUF file `path` under the plan's name for it."""
    file = read_gguf(path)
    arch = read_gguf_arch(file).within(context)
    check_context(arch, context, path)
    check_tokenizer(file, arch.vocab)
    stored = find_gguf_tensors(arch, file)
    graph = build(arch, {tensor: _weight(tensor, where, arch) for tensor, where in stored.items()}, context)
    graph.graph.name = name
    return Module(name, {MAIN: graph}, Level.SEMANTIC, arch, path, context, tokenizer_folder=text_files(file))


def _weight(name: str, stored: StoredBlocks, arch: DecoderArch) -> Weight:
    """The tensor as floats, with the integers it is stored in beside them."""
    weight = float_weight(name, stored, arch)
    if (integers := integers_of(name, stored, arch)) is not None:
        STORED.set(weight, integers)
    return weight
