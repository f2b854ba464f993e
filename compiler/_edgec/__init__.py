"""edgec: a compiler for on-device LLM deployment.

    edgec.check("plan.edge")                      every mistake in a plan
    result = edgec.compile("plan.edge")           a bundle
    with edgec.open(result.bundle) as bundle:     run it, verify it
        bundle.generate("def mean(values):")

`docs/python.md` is the reference. Plug-ins import `edgec.api`. Importing either loads nothing else: each name is
imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy_names import lazy

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgec.compiler.diagnostics.diagnostic import Diagnostic as Diagnostic
    from edgec.compiler.diagnostics.diagnostic import EdgecError as EdgecError
    from edgec.compiler.diagnostics.diagnostic import EngineError as EngineError
    from edgec.compiler.diagnostics.diagnostic import PlanError as PlanError
    from edgec.compiler.diagnostics.diagnostic import RequirementError as RequirementError
    from edgec.compiler.driver import BrokenRequirement as BrokenRequirement
    from edgec.compiler.driver import CompileResult as CompileResult
    from edgec.compiler.emit.conformance.proof import Proven as Proven
    from edgec.compiler.first_plan.choose import FirstPlan as FirstPlan
    from edgec.compiler.plan.plan import Plan as Plan
    from edgec.compiler.python.cache_calls import cache as cache
    from edgec.compiler.python.calls import CheckResult as CheckResult
    from edgec.compiler.python.calls import check as check
    from edgec.compiler.python.calls import compile as compile
    from edgec.compiler.python.calls import compile_all as compile_all
    from edgec.compiler.python.calls import estimate as estimate
    from edgec.compiler.python.calls import inspect as inspect
    from edgec.compiler.python.calls import load as load
    from edgec.compiler.python.calls import prove as prove
    from edgec.compiler.python.opened_bundle import Bundle as Bundle
    from edgec.compiler.python.opened_bundle import Generation as Generation
    from edgec.compiler.python.opened_bundle import open as open
    from edgec.compiler.python.opened_bundle import unpack as unpack
    from edgec.compiler.python.search_calls import init as init
    from edgec.compiler.python.search_calls import sweep as sweep
    from edgec.compiler.python.search_calls import tune as tune
    from edgec.compiler.search.sweep import Sweep as Sweep
    from edgec.compiler.search.tune import Tuned as Tuned

_PLACES = {
    "BrokenRequirement": "driver",
    "Bundle": "python.opened_bundle",
    "CheckResult": "python.calls",
    "CompileResult": "driver",
    "Diagnostic": "diagnostics.diagnostic",
    "EdgecError": "diagnostics.diagnostic",
    "EngineError": "diagnostics.diagnostic",
    "FirstPlan": "first_plan.choose",
    "Generation": "python.opened_bundle",
    "Plan": "plan.plan",
    "PlanError": "diagnostics.diagnostic",
    "Proven": "emit.conformance.proof",
    "RequirementError": "diagnostics.diagnostic",
    "Sweep": "search.sweep",
    "Tuned": "search.tune",
    "cache": "python.cache_calls",
    "check": "python.calls",
    "compile": "python.calls",
    "compile_all": "python.calls",
    "estimate": "python.calls",
    "init": "python.search_calls",
    "inspect": "python.calls",
    "load": "python.calls",
    "open": "python.opened_bundle",
    "prove": "python.calls",
    "sweep": "python.search_calls",
    "tune": "python.search_calls",
    "unpack": "python.opened_bundle",
}

__all__ = [*_PLACES]

__getattr__, __dir__ = lazy(globals(), _PLACES)
