"""What a compile came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..diagnostics.diagnostic import Diagnostic, RequirementError

if TYPE_CHECKING:
    from ..compile.compile_model import CompiledModel
    from ..compile.requirements import Measured


@dataclass(repr=False)
class CompileResult:
    """A finished compile: where the bundle is (`<name>.rejected` when a `require` line broke) and what it holds."""

    bundle: Path
    manifest: dict[str, Any]
    models: list[CompiledModel]
    measured: Measured
    warnings: tuple[Diagnostic, ...] = ()  # of the plan's check, those found by the compile's own too

    @property
    def size(self) -> int:
        """Bytes of all files, the manifest itself left out."""
        return sum(row["size"] for row in self.manifest["files"].values())

    @property
    def report(self) -> Path:
        """The report, an HTML page."""
        return self.bundle / "report.html"

    def __repr__(self) -> str:
        names = ", ".join(model.name for model in self.models)
        broken = [row["line"] for row in self.measured.requires if not row["holds"]]
        said = f"; does not hold: {'; '.join(broken)}" if broken else ""
        return f"<compiled {self.bundle}: {names}, {self.size / 1e6:.2f} MB{said}>"

    def _repr_html_(self) -> str:
        from ..report.notebook import framed

        return framed(self.report)


class BrokenRequirement(RequirementError):
    """A `require` line does not hold; `result` tells where the rejected bundle is and what was measured."""

    def __init__(self, *diagnostics: Diagnostic, result: CompileResult) -> None:
        super().__init__(*diagnostics)
        self.result = result
