"""A Hugging Face folder (config.json + safetensors) to a module at level `semantic`. No torch, no export trace.

Only headers are read here; the weights stay in their files and are cast to float32 as someone asks for rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from .arch import DecoderArch, check_context, read_arch
from .diagnostics import fail
from .levels import Level
from .module import MAIN, Module
from .safetensors_index import StoredTensor, read_checkpoint
from .semantic import build
from .weights import Weight, cast

_PREFIX = "model."
_RECOMPUTED = ".rotary_emb.inv_freq"  # a buffer that old checkpoints store; the config says the same
_SHOWN = 3


def load_hf(name: str, folder: Path, context: int) -> Module:
    """The decoder in `folder` under the plan's name for it."""
    arch = read_arch(folder)
    check_context(arch, context, folder)
    weights = read_weights(arch, folder)
    graph = build(arch, weights)
    graph.graph.name = name
    return Module(name, {MAIN: graph}, Level.SEMANTIC, arch, folder, context)


def read_weights(arch: DecoderArch, folder: Path) -> dict[str, Weight]:
    """A lazy float32 weight for each tensor of `arch`; what is missing, extra or of another shape is an error."""
    stored = {_graph_name(name): tensor for name, tensor in read_checkpoint(folder).items()}
    needed = arch.tensors()
    if arch.tied and "lm_head.weight" in stored:
        _check_tied(stored.pop("lm_head.weight"), stored.get("embed_tokens.weight"))
    missing = [name for name in needed if name not in stored]
    if missing:
        hint = None
        if missing == ["lm_head.weight"]:
            hint = "if the head shares the embedding, config.json has to say `tie_word_embeddings`"
        fail("E0343", f"the checkpoint in `{folder}` lacks {_listed(missing)}", help=hint)
    extra = [name for name in stored if name not in needed and not name.endswith(_RECOMPUTED)]
    if extra:
        files = ", ".join(sorted({f"`{stored[name].file.path.name}`" for name in extra}))
        message = f"the checkpoint in `{folder}` has tensors that a {arch.family} of this config has no use for"
        fail("E0344", f"{message}: {_listed(extra, stored)} in {files}")
    return {name: _weight(stored[name], shape, name) for name, shape in needed.items()}


def _graph_name(stored: str) -> str:
    return stored.removeprefix(_PREFIX)


def _weight(stored: StoredTensor, shape: tuple[int, ...], name: str) -> Weight:
    if stored.shape != shape:
        message = f"tensor `{stored.name}` in `{stored.file.path}` has shape {list(stored.shape)}"
        fail("E0345", f"{message}, config.json asks for {list(shape)}")
    weight = cast(stored.weight(), ir.DataType.FLOAT)
    weight.name = name
    return weight


def _check_tied(head: StoredTensor, embedding: StoredTensor | None) -> None:
    """A tied checkpoint may store its head as well, but only as a copy."""
    if embedding is None:
        return
    same = head.shape == embedding.shape
    if same and head.shape:
        first, second = head.weight(), embedding.weight()
        same = all(np.array_equal(block, second.rows(at, at + len(block))) for at, block in first.blocks())
    if not same:
        message = f"`{head.file.path}` has an `{head.name}` that differs from the embedding it is tied to"
        fail("E0344", message, help="set `tie_word_embeddings` to false in config.json if the head is its own")


def _listed(names: list[str], stored: Mapping[str, StoredTensor] | None = None) -> str:
    shown = [f"`{stored[name].name if stored else name}`" for name in names[:_SHOWN]]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shown) + more
