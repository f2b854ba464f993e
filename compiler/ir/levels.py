"""The levels a module goes through. Each has a legality check (`legality/`) that runs between passes."""

from __future__ import annotations

from enum import IntEnum


class Level(IntEnum):
    """Ordered: a pass never takes a module back to an earlier level."""

    SEMANTIC = 1  # dynamic shapes; standard ops of opset 23/24; K/V as graph inputs and outputs
    COMPRESSED = 2  # quantised weights (later: sparse, shadowed, lookup ops)
    PLACED = 3  # each node carries its device, `cpu` or `npu`
    STATIC = 4  # one graph per bucket, every shape a number
    TARGET = 5  # only what one emitter takes

    @property
    def label(self) -> str:
        """The level's name in lower case, as messages have it."""
        return self.name.lower()
