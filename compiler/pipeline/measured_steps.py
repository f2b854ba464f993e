"""Which steps of a pipeline perplexity counts.

    load -> steps on weights -> compressed -> steps that place and shape -> parts
                                   |          (a later step that changes numbers runs on `compressed` too)
                                   v
                               perplexity

Perplexity is measured on one graph of free shape, so on the module before it is placed and put into buckets. Steps that
place and shape are exact. A pass behind them that is not is run on the measured module as well, and has to take its
level.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..diagnostics.diagnostic import Diagnostic, Label
from ..diagnostics.wording import join_or
from ..ir.levels import Level
from .step import Step


def split_steps(steps: Sequence[Step]) -> tuple[Sequence[Step], Sequence[Step]]:
    """The steps before and from the first one that places or shapes."""
    for index, step in enumerate(steps):
        leaves = step.pass_.leaves
        if leaves is not None and leaves >= Level.PLACED:
            return steps[:index], steps[index:]
    return steps, ()


def late_changes(steps: Sequence[Step]) -> list[Step]:
    """Steps from the first that places or shapes that change what the model computes, and take the module before it."""
    before, after = split_steps(steps)
    level = _level(before)
    return [step for step in after if step.pass_.tolerance.bound and level in step.pass_.takes]


def unmeasured(steps: Sequence[Step]) -> list[Diagnostic]:
    """Steps that change what the model computes where perplexity cannot see it (E0416)."""
    before, after = split_steps(steps)
    level = _level(before)
    return [
        _not_seen(step, after[0], level)
        for step in after
        if step.pass_.tolerance.bound and level not in step.pass_.takes
    ]


def _level(steps: Sequence[Step]) -> Level:
    return max((step.pass_.leaves or Level.SEMANTIC for step in steps), default=Level.SEMANTIC)


def _not_seen(step: Step, border: Step, level: Level) -> Diagnostic:
    takes = join_or(f"`{taken.label}`" for taken in step.pass_.takes)
    message = f"perplexity would not count what `{step.pass_name}` changes: it is measured before `{border.pass_name}`"
    also = (Label(border.span, f"the model is measured before this line, at level `{level.label}`"),)
    help = f"leave out `evaluation`, or use a pass that takes level `{level.label}` too; this one takes {takes}"
    return Diagnostic("E0416", message, Label(step.span), also, help)
