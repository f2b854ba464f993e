"""Each mistake of the table is one error with its place, a cause and a way out that leads to a right plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgec.compiler.diagnostics.diagnostic import Diagnostic
from edgec.compiler.diagnostics.visible import source_lines
from edgec.dsl import check_file

from .newcomer_table import MISTAKES, NPU, Mistake

HERE = Path(__file__).parent / "newcomer"


@pytest.fixture(autouse=True)
def _beside_the_newcomers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)


def errors(text: str) -> list[Diagnostic]:
    return [one for one in check_file(Path("plan.edge"), text=text)[1] if one.severity == "error"]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_a_place_a_cause_and_a_way_out_that_works(name: str) -> None:
    mistake = MISTAKES[name]
    assert mistake.right in mistake.plan
    text = mistake.plan.replace(mistake.right, mistake.typed, 1)
    (found,) = errors(text)  # one mistake, one error
    assert found.code == mistake.code
    said = f"{found.message}\n{found.help}"
    assert [words for words in mistake.says if words not in said] == []
    assert found.help
    if text:
        assert found.at is not None
        assert 1 <= found.at.span.line <= max(len(source_lines(text)), 3)
    then = mistake.right if mistake.then is None else mistake.then
    assert errors(mistake.plan.replace(mistake.right, then, 1)) == []


def test_there_are_ninety_and_a_wrong_row_is_found() -> None:
    assert len(MISTAKES) == 90
    circle = Mistake(NPU, "k = 3", "k = 3", "E0210", ())
    with pytest.raises(ValueError, match="not enough values"):
        (_one,) = errors(circle.plan)


def test_a_wrong_value_from_the_command_line_says_where_it_is_from() -> None:
    _, found, _ = check_file(Path("plan.edge"), ["size=33"], text=MISTAKES["quantise"].plan)
    (error,) = [one for one in found if one.severity == "error"]
    assert [label.text for label in error.also] == ["`size` is `33` by `-D`"]
