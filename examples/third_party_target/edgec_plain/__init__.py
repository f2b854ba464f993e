"""`as plain`: ONNX files of standard operators, for any runtime that reads ONNX.

This module is what the checker of plans reads; everything heavy is imported by the methods that need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from edgec.api import Capabilities, CheckRequest, Diagnostic, Emission, EmitJob, GraphSession, Label, Target, param

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class PlainOptions:
    """What `as plain { … }` takes."""

    threads: int = param(1, doc="threads that ONNX Runtime computes with", minimum=1, maximum=64)


class PlainTarget(Target):
    """ONNX files of standard operators, whole models on a CPU."""

    name: ClassVar[str] = "plain"
    Options: ClassVar[type] = PlainOptions
    capabilities: ClassVar[Capabilities] = Capabilities(places=frozenset({"cpu"}), widths={4: 0, 8: 0})

    def check(self, request: CheckRequest) -> Sequence[Diagnostic]:
        """More threads than the chip has cores would only wait for each other."""
        cores = sum(group.count for group in request.device.cores)
        threads = request.deploy.options.threads
        if not cores or threads <= cores:
            return ()
        message = f"{threads} threads are more than the {cores} cores of `{request.device.name}`"
        help = f"set `threads` to at most {cores}"
        return [Diagnostic("PLAIN01", message, Label(request.deploy.span), help=help)]

    def emit(self, job: EmitJob) -> Emission:
        """Write the ONNX files of the job's parts; see `emit.py`."""
        from .emit import emit

        return emit(job)

    def open_graph(self, bundle: Path, part: dict[str, Any], bucket: str) -> GraphSession:
        """One graph of a part in ONNX Runtime."""
        from .session import PlainGraph

        return PlainGraph(bundle / part["graphs"][bucket]["file"], part["details"]["threads"])

    def verify_part(self, bundle: Path, part: dict[str, Any]) -> Sequence[str]:
        """What the files have otherwise than the manifest says."""
        from .session import problems

        return problems(bundle, part)

    def inspect(self, path: Path) -> dict[str, Any] | None:
        """A file that this target wrote: it says so in its metadata."""
        if path.suffix != ".onnx":
            return None
        from .session import describe

        return describe(path)
