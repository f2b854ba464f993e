"""`accept` on a deploy line: warnings that are known, with the reason why they may stand.

A line accepts the warnings about its own model, and those about the plan as a whole (`Diagnostic.models` says which).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from ..diagnostics.diagnostic import Diagnostic, Label
from .plan import Deploy, Plan

FOUND_LATER = ("W0310", "W0331", "W0332")  # by the dry run and the compile, behind the checker


def accepted(deploys: Sequence[Deploy], found: Sequence[Diagnostic]) -> list[Diagnostic]:
    """The diagnostics, each once, those marked that a deploy line accepts."""
    return list(dict.fromkeys(replace(one, models=(), accepted=_reason(deploys, one)) for one in found))


def never_came(
    deploys: Sequence[Deploy], found: Sequence[Diagnostic], among: Collection[str] = (), beside: Collection[str] = ()
) -> list[Diagnostic]:
    """W0306 for each code that a line accepts and nothing in `found` has; only for codes `among`, none of `beside`."""
    wrong = []
    for deploy in deploys:
        came = {one.code for one in found if _is_about(one, deploy)}
        for code in deploy.accept:
            if code not in came and code not in beside and (not among or code in among):
                message = f"`{deploy.model}` accepts {code}, which is not among its warnings"
                at = Label(deploy.span)
                wrong.append(Diagnostic("W0306", message, at, help="leave it out of `accept`", severity="warning"))
    return wrong


def with_warnings(plan: Plan, found: Sequence[Diagnostic]) -> Plan:
    """The plan with further warnings: they stand in the manifest, the report and what a compile prints."""
    return replace(plan, warnings=tuple(dict.fromkeys((*plan.warnings, *found))))


def found_later(plan: Plan, later: Sequence[Diagnostic]) -> list[Diagnostic]:
    """Warnings found behind the checker, those that the plan accepts marked so."""
    return [*accepted(plan.deploys, later), *never_came(plan.deploys, later, among=FOUND_LATER)]


def _reason(deploys: Sequence[Deploy], one: Diagnostic) -> str | None:
    if one.severity != "warning":
        return one.accepted
    reasons = [deploy.reason for deploy in deploys if one.code in deploy.accept and _is_about(one, deploy)]
    return reasons[0] if reasons else one.accepted


def _is_about(one: Diagnostic, deploy: Deploy) -> bool:
    return not one.models or deploy.model in one.models
