"""Whether what is asked of a plan can be done, and what of it only measuring decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..compile.options import CompileOptions
from ..diagnostics.diagnostic import fail, framed_in
from ..diagnostics.nearest import nearest_help
from ..files.cache import make_root

if TYPE_CHECKING:
    from ..plan.plan import Plan


def measured_k(plan: Plan, options: CompileOptions) -> Plan:
    """The plan with `k = auto`, and buckets, decided by the pair's own acceptance, measured where it is not known."""
    if not any(line.auto for line in plan.speculates):
        return plan
    from ..compile.acceptance import measure_acceptance
    from ..compile.decide import decide

    with framed_in(plan.sources):
        measure_acceptance(plan, options.progress)
        return decide(plan)


def check_request(plan: Plan, options: CompileOptions) -> None:
    """What is no mistake of the plan, and yet cannot be done."""
    make_root()
    if not plan.deploys:
        help = "add e.g. `deploy NAME on cpu through PIPELINE as mnn`"
        fail("E0212", f"`{plan.path}` deploys nothing: there is no bundle to make", help=help)
    steps = {step.pass_name for pipeline in plan.pipelines.values() for step in pipeline.steps}
    for name in options.print_after:
        if name != "all" and name not in steps:
            help = nearest_help(name, steps, "pass") or "`--print-after` takes a pass of the plan, or `all`"
            fail("E0102", f"no pipeline of the plan has a pass `{name}`", help=help)
