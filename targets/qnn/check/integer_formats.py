"""What the plan's checker says about integer activations: formats HTP refuses, formats no phone is reported to take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ....compiler.diagnostics.diagnostic import Diagnostic, Label
from ..htp.chip import Chip

if TYPE_CHECKING:
    from ....compiler.emit.target import CheckRequest
    from ....compiler.pipeline.step import Step
    from ..conformance.table import Report

_LPBQ_BLOCKS = (16, 32, 64)


def integers(request: CheckRequest) -> bool:
    """Whether a line of the pipeline makes activations integers: then all of them are."""
    return any(getattr(step.pass_, "activations", "fp16") != "fp16" for step in request.steps)


def format_of(step: Step) -> str:
    """How the line's weights are emitted beside integer activations: per_channel, lpbq or block."""
    pass_ = step.pass_
    if not isinstance(getattr(pass_, "block", None), int):
        return "per_channel"
    own = getattr(pass_, "scales", "auto")
    # what `auto` means is the pass's to say: it looks at its own line only
    two_level = own == "lpbq" or (own == "auto" and getattr(pass_, "activations", "fp16") != "fp16")
    fits = getattr(pass_, "weights", "") in ("int2", "int3", "int4") and getattr(pass_, "block", 0) in _LPBQ_BLOCKS
    return "lpbq" if two_level and fits else "block"


def integer_format(step: Step, chip: Chip) -> Iterator[Diagnostic]:
    """Errors for what HTP has no form for, a warning for what no phone is reported to take."""
    at, form = Label(step.span), format_of(step)
    narrow = getattr(step.pass_, "activations", "fp16") == "uint8"
    if not getattr(step.pass_, "symmetric", True):
        message = "HTP takes no zero points in weights beside integer activations"
        yield Diagnostic("E0637", message, at, help="leave out `symmetric = false`, or use `activations = fp16`")
    elif narrow and form == "block":
        message = "HTP takes no float scales per block beside 8-bit activations"
        help = "use `block = channel`, int4 in blocks of 16, 32 or 64 (two-level scales), or `activations = uint16`"
        yield Diagnostic("E0637", message, at, help=help)
    else:
        yield from _evidence(step, chip, form, narrow)


def _evidence(step: Step, chip: Chip, form: str, narrow: bool) -> Iterator[Diagnostic]:
    from ..conformance.table import load_reports

    reports = [r for r in load_reports() if f"v{chip.arch}" in r.archs]
    wanted = {"lpbq": "int4_lpbq_a16", "per_channel": "int_per_channel_qdq"}.get(form)
    if not narrow and any(r.format == wanted and r.works for r in reports):
        return
    grains = {"lpbq": "two-level scales", "per_channel": "one scale per channel", "block": "float scales per block"}
    bits = "8-bit" if narrow else "16-bit"
    weights = getattr(step.pass_, "weights", "int4")
    yield Diagnostic(
        "W0601",
        f"{weights} with {grains[form]} and {bits} activations was run on the HTP emulator only: "
        f"no phone with a v{chip.arch} NPU is reported to take it",
        Label(step.span),
        help=f"{safer(reports)}try the bundle on a device before shipping it; "
        "docs/conformance.md lists what phones are reported to take",
        severity="warning",
    )


def safer(reports: Sequence[Report]) -> str:
    """The smallest format that phones are reported to take."""
    known = {report.format for report in reports if report.works}
    if "int4_lpbq_a16" in known:
        return "int4 in blocks of 16, 32 or 64 with `activations = uint16` (LPBQ) is reported to run; "
    if "int_per_channel_qdq" in known:
        return "`block = channel` with `activations = uint16` is reported to run; "
    return "fp16 weights (no quantize step) are reported to run; " if "fp16" in known else ""
