"""A model read from its source, and the steps of its pipeline run over it as a compile of its deploy line does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..diagnostics.diagnostic import blamed_on

if TYPE_CHECKING:
    from ..ir.module import Module
    from ..pipeline.pass_interface import StepResult
    from ..pipeline.step import Step
    from ..plan.plan import Deploy, ModelDecl, Plan
    from .options import CompileOptions


def load_model(decl: ModelDecl) -> Module:
    """The module of a `model` line at level `semantic`; weights stay in their files.

    A decoder that was read out of a graph is proven beside it first.
    """
    with blamed_on(decl.span):
        module = decl.source.reader.load(decl.name, decl.source.path, decl.context)
        if module.original is not None:
            from ..oracle.rebuilt import prove_rebuilt

            prove_rebuilt(module)
        return module


def run_steps(
    module: Module,
    steps: Sequence[Step],
    plan: Plan,
    deploy: Deploy,
    options: CompileOptions,
) -> list[StepResult]:
    """Run `steps` over `module` as a compile of `deploy` does; what each of them did."""
    from ..pipeline.run_steps import PipelineOptions, run_pipeline
    from ..registry import find_target

    chosen = PipelineOptions(
        print_after=options.print_after,
        time_passes=options.time_passes,
        verify_each=options.verify_each,
        explain_skips=options.explain_skips,
        profiling=options.profiling,
    )
    stores = find_target(deploy.target).capabilities
    return run_pipeline(
        module,
        steps,
        default_device=deploy.device,
        options=chosen,
        calibration=plan.calibration,
        progress=options.progress,
        widths=stores.widths,
        integer_widths=stores.integer_widths,
        minimums=stores.minimums,
        chips=[device for device in plan.devices if not device.is_host],
    )
