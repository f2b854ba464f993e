"""What can be said about a qnn deployment before any weight is read. Imports no engine and no array library."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ....compiler.diagnostics.diagnostic import Diagnostic, EdgecError, Label
from ..htp.chip import NO_FP16, Chip
from ..shards import check_shards
from .integer_formats import ACKNOWLEDGE, described, integer_format, integers, safer

if TYPE_CHECKING:
    from ....compiler.emit.target import CheckRequest
    from ....compiler.pipeline.step import Step


_EMBEDDING = "embed_tokens"  # of a decoder: the NPU has no lookup in a quantised table


def check(request: CheckRequest) -> list[Diagnostic]:
    """Every problem that can be seen now."""
    at = Label(request.deploy.span)
    problems = list(_host(at))
    try:
        chip = Chip.of(request.device)
    except EdgecError as error:
        return problems + [Diagnostic(d.code, d.message, at, help=d.help) for d in error.diagnostics]
    problems += _device(request, at)
    problems += _buckets(request, at)
    problems += _two_ropes(request, at)
    problems += check_shards(request, at)
    for step in request.steps:
        if step.demands.weights and not _stays_on_cpu(step, request):
            problems += integer_format(step, chip) if integers(request) else _format(step, chip)
    if request.deploy.kv == "uint8" and not integers(request):
        message = "an 8-bit K/V cache needs integer activations around it, and the pipeline has none"
        help = "add `activations = uint16` to a `quantize` line, or leave out `kv`"
        problems.append(Diagnostic("E0637", message, at, help=help))
    return problems


def _host(at: Label) -> Iterator[Diagnostic]:
    """The HTP compiler comes as a Linux x86-64 wheel only."""
    here = f"{sys.platform} {platform.machine()}"
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        yield Diagnostic(
            "E0603",
            f"the HTP compiler runs on Linux x86-64, this machine is {here}",
            at,
            help="compile in a Linux x86-64 container or machine; the bundle itself is portable",
        )
    elif find_spec("onnxruntime_qnn") is None:
        yield Diagnostic(
            "E0603", "the HTP compiler is not installed", at, help="pip install onnxruntime-qnn, or `make install`"
        )


def _device(request: CheckRequest, at: Label) -> Iterator[Diagnostic]:
    reason = NO_FP16.get(request.device.sm or "")
    if reason and not integers(request):
        yield Diagnostic(
            "E0604",
            f"the NPU of `{request.device.name}` does not compute in fp16, which this pipeline needs: {reason}",
            at,
            help="add `activations = uint16` to a `quantize` line, or deploy the model on cpu for this device",
        )


def _two_ropes(request: CheckRequest, at: Label) -> Iterator[Diagnostic]:
    """The runner feeds the table of `arch.rope` alone: layers with another rope would be turned by that."""
    if request.arch is not None and any(rope != request.arch.rope for rope in request.arch.ropes().values()):
        own = f"`{request.deploy.model}` rotates its local layers by frequencies of their own"
        message = f"{own}, and an NPU graph is fed one table"
        yield Diagnostic("E0634", message, at, help="deploy the model on cpu, `as ort`")


def _buckets(request: CheckRequest, at: Label) -> Iterator[Diagnostic]:
    if request.arch is not None and not any(step.demands.static for step in request.steps):
        yield Diagnostic(
            "E0605",
            f"`{request.deploy.model}` has no buckets: an NPU graph needs static shapes",
            at,
            help="end its pipeline with `bucket (tokens = [1, 128], context = [2048])`",
        )


def _stays_on_cpu(step: Step, request: CheckRequest) -> bool:
    """Whether a line is for nothing but ops that another line, pattern by pattern, places on the CPU.

    A decoder's embedding is looked up there once it is quantised, unless a line has it elsewhere.
    """
    placed = {name for one in request.steps if one.demands.places == {"cpu"} for name in one.on or ()}
    elsewhere = any(one.demands.places and one.demands.places != {"cpu"} for one in request.steps)
    if request.arch is not None and not elsewhere:
        placed.add(_EMBEDDING)
    return step.on is not None and placed.issuperset(step.on)


def _format(step: Step, chip: Chip) -> Iterator[Diagnostic]:
    """A weight format that no phone with this chip's NPU is reported to run draws a warning."""
    from ..conformance.table import load_reports

    at = Label(step.place("weights", "method"))
    reports = [r for r in load_reports() if f"v{chip.arch}" in r.archs]
    if any(r.format == "matmul_nbits" and r.works for r in reports):
        return
    other = safer(reports)
    yield Diagnostic(
        "W0601",
        f"{described(step.demands.weights)} and fp16 activations was run on the HTP emulator only: "
        f"no phone with a v{chip.arch} NPU is reported to take it",
        at,
        help=f"{other}{ACKNOWLEDGE}",
        severity="warning",
    )
