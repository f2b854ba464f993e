"""What a compile says of work beside the NPU: whether it takes longer than the NPU; E0437 unless that is forced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..diagnostics.diagnostic import Diagnostic, Label
from ..diagnostics.wording import count
from ..pipeline.pass_interface import FiguresTable
from .lane_times import QUICK, SLOW, Beside, beside

if TYPE_CHECKING:
    from ..ir.module import Module
    from ..pipeline.pass_interface import StepResult
    from ..pipeline.step import Step
    from ..plan.devices import Device
    from ..plan.plan import Deploy, Plan

HEAD = ("beside", "bucket", "linears", "CPU, µs", "NPU, µs, at least", "hides")


def refusals(plan: Plan, deploy: Deploy, module: Module, steps: Sequence[Step]) -> Iterator[Diagnostic]:
    """E0437 for each device of the plan on which a step's work does not hide, even behind slow calls of the NPU."""
    step = next((step for step in steps if step.demands.hides), None)
    for device in plan.devices if step is not None else ():
        rows = beside(module, deploy.device, device)
        late = [row for row in rows if not row.hides(SLOW)]
        if step is not None and late:
            yield _refusal(step, device, rows, late)


def _refusal(step: Step, device: Device, rows: Sequence[Beside], late: Sequence[Beside]) -> Diagnostic:
    worst = max(late, key=lambda row: row.cpu - row.npu)
    message = (
        f"what `{step.pass_name}` leaves to the CPU does not hide behind the NPU of `{device.name}`: beside "
        f"`{worst.linears[0]}` in bucket `{worst.bucket}` it takes {_micro(worst.cpu)} µs, the NPU {_micro(worst.npu)} "
        f"and {_micro(SLOW)} for the call; so it is with {len(late)} of {len(rows)} calls"
    )
    hidden = [row.bucket for row in rows if row.bucket not in {one.bucket for one in late}]
    smaller = ", or buckets of fewer tokens" if hidden or len({row.bucket for row in rows}) == 1 else ""
    help = f"correct fewer channels (`max_channels`){smaller}, or accept the wait: `force = true`"
    return Diagnostic("E0437", message, Label(step.span), help=help)


def with_times(
    results: Sequence[StepResult], plan: Plan, deploy: Deploy, module: Module, steps: Sequence[Step]
) -> list[StepResult]:
    """The results, with what runs beside the NPU in that of the step that divided linears."""
    step = next((step for step in steps if step.demands.npu is not None), None)
    if step is None:
        return list(results)
    notes, tables = [], []
    for device in plan.devices:
        rows = beside(module, deploy.device, device)
        if rows:
            notes.append(_note(rows, device))
            title = f"The CPU beside the NPU of {device.marketing}"
            tables.append(FiguresTable(title, HEAD, tuple(map(_cells, rows))))
    return [
        replace(one, notes=(*one.notes, *notes), tables=(*one.tables, *tables)) if one.origin == step.span else one
        for one in results
    ]


def _note(rows: Sequence[Beside], device: Device) -> str:
    quick, slow = (sum(row.hides(call) for row in rows) for call in (QUICK, SLOW))
    calls = len(rows) / len({row.bucket for row in rows})
    return (
        f"on {device.marketing} the CPU's work hides behind the NPU in {quick} of {count(len(rows), 'call')} where a "
        f"call of the NPU costs {_micro(QUICK)} µs, in {slow} where it costs {_micro(SLOW)}; what they add to a call "
        f"of the model is {1e3 * calls * QUICK:.2g} to {1e3 * calls * SLOW:.2g} ms"
    )


def _cells(row: Beside) -> tuple[str, ...]:
    linears = ", ".join(name.rpartition(".")[2] for name in row.linears)
    return (row.linears[0], row.bucket, linears, _micro(row.cpu), _micro(row.npu), row.verdict)


def _micro(seconds: float) -> str:
    return f"{1e6 * seconds:.3g}"
