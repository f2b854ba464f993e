"""A part: the piece of a model that one device runs, the same piece in every bucket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(repr=False)
class Part:
    """A piece of a model on one device. `graphs`: bucket name (or "main") -> its graph."""

    name: str  # "target.npu0"
    device: str  # "cpu" | "npu"
    graphs: dict[str, ir.Model]
    target: str = ""  # what emits it, where that is not the target of its device
    shard: int = 0  # parts of different shards are separate even where one device could run them as one

    def __repr__(self) -> str:
        return f"<part {self.name} on {self.device}: {', '.join(self.graphs)}>"
