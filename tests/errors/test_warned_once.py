"""A warning that is found twice in one command is shown once."""

from __future__ import annotations

from edgec.compiler.diagnostics.diagnostic import Diagnostic
from edgec.compiler.diagnostics.warn import collected, listening, warn


def test_a_command_shows_a_warning_once() -> None:
    one, other = (Diagnostic("W0630", text, severity="warning") for text in ("a", "b"))
    for _ in range(2):  # the next command shows it again
        told: list[Diagnostic] = []
        with collected() as found, listening(told.append):
            for diagnostic in (one, other, one):
                warn(diagnostic)
        assert told == [one, other]
        assert found == [one, other, one]
