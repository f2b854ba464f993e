"""Which rule lowers which op. A rule takes the lowering and the node and returns the value(s) of its outputs."""

from __future__ import annotations

from . import attention, elementwise, layout, linear, norm, vision
from .lowering import Rule

RULES: dict[str, Rule] = {
    **attention.RULES,
    **elementwise.RULES,
    **layout.RULES,
    **linear.RULES,
    **norm.RULES,
    **vision.RULES,
}
