"""Which rule lowers which op. A rule takes the lowering and the node and returns the value(s) of its outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import attention, elementwise, layout, linear, norm, vision

if TYPE_CHECKING:
    import onnx_ir as ir

    from .lowering import Lowering

Rule = Callable[["Lowering", "ir.Node"], "ir.Value | list[ir.Value]"]

RULES: dict[str, Rule] = {
    **attention.RULES,
    **elementwise.RULES,
    **layout.RULES,
    **linear.RULES,
    **norm.RULES,
    **vision.RULES,
}
