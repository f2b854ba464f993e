"""The diagnostics of one run of the checker, collected so that all mistakes are reported together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ..compiler.diagnostics.diagnostic import Diagnostic, EdgecError, Label, Severity, Span

MAX_SHOWN = 100


@dataclass
class DiagnosticCollector:
    """The diagnostics found so far, in the order they were found."""

    diagnostics: list[Diagnostic] = field(default_factory=list)
    _counted: int = 0
    _errors: int = 0

    def error(
        self,
        code: str,
        message: str,
        at: Span | None,
        label: str = "",
        also: Iterable[Label] = (),
        help: str | None = None,
    ) -> None:
        """Add an error. `label` is written under the marked text, `also` marks further places."""
        self._add("error", code, message, at, label, also, help)

    def warning(
        self,
        code: str,
        message: str,
        at: Span | None,
        label: str = "",
        help: str | None = None,
        models: tuple[str, ...] = (),
    ) -> None:
        """Add a warning, which does not stop the plan; `models` are those it is about."""
        self._add("warning", code, message, at, label, (), help, models)

    def settle(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Put these in the place of what was found so far."""
        self.diagnostics, self._counted, self._errors = list(diagnostics), 0, 0

    def take(self, error: EdgecError, at: Span, label: str = "") -> None:
        """Adopt another module's error; where it names no place of its own, `at` is the place."""
        for found in error.diagnostics:
            self.diagnostics.append(found if found.at else replace(found, at=Label(at, label)))

    @property
    def errors(self) -> int:
        """How many errors there are; asked after every line, so each diagnostic is looked at once."""
        new = self.diagnostics[self._counted :]
        self._errors += sum(diagnostic.severity == "error" for diagnostic in new)
        self._counted += len(new)
        return self._errors

    def sorted(self, files: Iterable[str]) -> list[Diagnostic]:
        """In the order of the text, without repetitions; more than `MAX_SHOWN` are counted, not shown."""
        order = {file: index for index, file in enumerate(files)}

        def place(diagnostic: Diagnostic) -> tuple[int, int, int]:
            if diagnostic.at is None:
                return len(order), 0, 0
            span = diagnostic.at.span
            return order.get(span.file, len(order)), span.line, span.column

        found = sorted(dict.fromkeys(self.diagnostics), key=place)
        if len(found) <= MAX_SHOWN:
            return found
        found.sort(key=lambda diagnostic: diagnostic.severity != "error")
        rest = len(found) - MAX_SHOWN
        note = Diagnostic("E0010", f"{rest} more diagnostics are not shown", severity="note")
        return [*sorted(found[:MAX_SHOWN], key=place), note]

    def _add(
        self,
        severity: Severity,
        code: str,
        message: str,
        at: Span | None,
        label: str,
        also: Iterable[Label],
        help: str | None,
        models: tuple[str, ...] = (),
    ) -> None:
        place = Label(at, label) if at else None
        self.diagnostics.append(Diagnostic(code, message, place, tuple(also), help, severity, models=models))
