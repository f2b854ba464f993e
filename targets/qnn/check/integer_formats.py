"""What the plan's checker says about integer activations: formats HTP refuses, formats no phone is reported to take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ....compiler.diagnostics.diagnostic import Diagnostic, Label
from ....compiler.diagnostics.wording import join_or
from ....compiler.ir.weight_format import TWO_LEVEL, WeightFormat
from ..htp.chip import Chip

if TYPE_CHECKING:
    from ....compiler.emit.conformance.table import DeviceReport
    from ....compiler.emit.target import CheckRequest
    from ....compiler.pipeline.step import Step

ACKNOWLEDGE = (
    "try the bundle on a device before shipping it; docs/conformance.md lists what phones are reported to take\n"
    'once it has run, write `{ accept = W0601  reason = "…" }` on the deploy line'
)


def integers(request: CheckRequest) -> bool:
    """Whether a line of the pipeline makes activations integers: then all of them are."""
    return any(step.demands.activations is not None for step in request.steps)


def described(formats: Sequence[WeightFormat]) -> str:
    """`int4 with block 32`; of several: `int3, int4 or int8 with block 16 or 32`."""
    widths = join_or(dict.fromkeys(f"int{one.bits}" for one in formats))
    blocks = list(dict.fromkeys(one.block for one in formats))
    return f"{widths} with " + (
        "one scale per channel" if blocks == [None] else f"block {join_or(str(block or 'channel') for block in blocks)}"
    )


def form_of(format_: WeightFormat) -> str:
    """How weights of this format are emitted beside integer activations: per_channel, lpbq or block."""
    if format_.block is None:
        return "per_channel"
    return "lpbq" if format_.scales == TWO_LEVEL else "block"


def integer_format(step: Step, chip: Chip) -> Iterator[Diagnostic]:
    """Errors for what HTP has no form for, a warning for what no phone is reported to take."""
    at, demands = Label(step.place("weights", "method")), step.demands
    forms = {form_of(one): one for one in demands.weights}
    narrow = demands.activations == "uint8"
    if any(not one.symmetric for one in demands.weights):
        message = "HTP takes no zero points in weights beside integer activations"
        yield Diagnostic("E0637", message, at, help="leave out `symmetric = false`, or use `activations = fp16`")
    elif narrow and "block" in forms:
        message = "HTP takes no float scales per block beside 8-bit activations"
        help = "use `block = channel`, int4 in blocks of 16, 32 or 64 (two-level scales), or `activations = uint16`"
        yield Diagnostic("E0637", message, at, help=help)
    else:
        for form in forms:
            of = [one for one in demands.weights if form_of(one) == form]
            yield from _evidence(at, of, chip, form, narrow)


def _evidence(at: Label, formats: Sequence[WeightFormat], chip: Chip, form: str, narrow: bool) -> Iterator[Diagnostic]:
    from ..conformance.table import load_reports

    reports = [r for r in load_reports() if f"v{chip.arch}" in r.archs]
    wanted = {"lpbq": "int4_lpbq_a16", "per_channel": "int_per_channel_qdq"}.get(form)
    if not narrow and any(r.format == wanted and r.works for r in reports):
        return
    grains = {"lpbq": "two-level scales", "per_channel": "one scale per channel", "block": "float scales per block"}
    bits = "8-bit" if narrow else "16-bit"
    widths = join_or(dict.fromkeys(f"int{one.bits}" for one in formats))
    yield Diagnostic(
        "W0601",
        f"{widths} with {grains[form]} and {bits} activations was run on the HTP emulator only: "
        f"no phone with a v{chip.arch} NPU is reported to take it",
        at,
        help=f"{safer(reports)}{ACKNOWLEDGE}",
        severity="warning",
    )


def safer(reports: Sequence[DeviceReport]) -> str:
    """The smallest format that phones are reported to take."""
    known = {report.format for report in reports if report.works}
    if "int4_lpbq_a16" in known:
        return "int4 in blocks of 16, 32 or 64 with `activations = uint16` (LPBQ) is reported to run\n"
    if "int_per_channel_qdq" in known:
        return "`block = channel` with `activations = uint16` is reported to run\n"
    return "fp16 weights (no quantize step) are reported to run\n" if "fp16" in known else ""
