"""The weight files of those models whose deploy line says `store = packed`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..emit.packed_store import wants_packed
from ..packed.pack_file import dense_bytes, packed_bytes
from ..packed.packed_bundle import pack_files

if TYPE_CHECKING:
    from .compile_model import CompiledModel


def pack_models(models: Sequence[CompiledModel], directory: Path) -> dict[str, Any] | None:
    """Pack what was asked for below `directory`; the manifest's `packed`, None where there is nothing."""
    wanted = [model for model in models if wants_packed(model.deploy.options)]
    return pack_files(directory, [tensor for model in wanted for tensor in model.emission.sparse])


def saved_bytes(model: CompiledModel) -> dict[str, int]:
    """Linear -> the bytes that packing saves of its integers; empty where the plan does not ask for it."""
    if not wants_packed(model.deploy.options):
        return {}
    return {one.name: dense_bytes(one) - packed_bytes(one) for one in model.emission.sparse}
