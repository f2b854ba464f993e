"""The devices an op, a part or a model can be placed on."""

from __future__ import annotations

from typing import Literal

Place = Literal["cpu", "npu"]
PLACES: tuple[Place, ...] = ("cpu", "npu")
