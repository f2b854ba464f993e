"""Legality of the target level: what is not known to be right is not emitted.

The rule, for a lowering used at a shape on an architecture. Words and switches of the shape (bits, block, symmetric,
rank, axis, perm, cache, …) must equal those of measured rows: these rows are its *class*. Then

    1  a row of exactly this shape decides, whatever the rest of its class says
    2  otherwise every row of the class must be right, and each number of the shape (tokens, rows, K, N, …) must lie
       between the smallest and the largest measured one: `between` is taken, `beyond` is not

A class with one wrong row thus allows only the shapes that were measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ....compiler.diagnostics.diagnostic import Diagnostic, PlanError
from ..lower.lowering import Use
from .table import Row, Table

# Numbers that may lie between measured ones; every other entry of a shape is a word.
NUMBERS = frozenset(
    {
        "tokens", "rows", "size", "k", "n", "m", "context", "heads", "kv_heads", "head_dim", "vocab", "elements",
        "channels", "inputs",
    }
)  # fmt: skip
_SAY = {"wrong": "computes wrong numbers", "rejected": "refuses it", "crash": "crashes"}


@dataclass
class Legality:
    """Judges uses on one architecture by the rows of a table."""

    arch: str
    table: Table
    _classes: dict[tuple, list[Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.table.rows:
            if row.arch == self.arch:
                self._classes.setdefault(_class(row.lowering, row.shape.items()), []).append(row)

    def problem(self, use: Use) -> str | None:
        """Why this use is not known to be right; None when it is."""
        rows = self._classes.get(_class(use.lowering, use.shape), [])
        shape = dict(use.shape)
        if not rows:
            return f"was never run on {self.arch} in this form ({_words(shape)})"
        exact = next((row for row in rows if row.shape == shape), None)
        if exact is not None:
            return None if exact.verdict == "right" else self._bad(exact)
        bad = next((row for row in rows if row.verdict != "right"), None)
        if bad is not None:
            return f"{self._bad(bad)}; only the shapes that were run are taken"
        for name in sorted(NUMBERS & shape.keys()):
            measured = [int(row.shape[name]) for row in rows]
            if not min(measured) <= int(shape[name]) <= max(measured):
                return (
                    f"was run on {self.arch} with {name} from {min(measured)} to {max(measured)}, "
                    f"here {name} is {shape[name]}"
                )
        return None

    def _bad(self, row: Row) -> str:
        return f"is known to fail on {self.arch}: the engine {_SAY[row.verdict]} at {_words(row.shape)}"


def check_uses(uses: Iterable[Use], arch: int, table: Table | None = None) -> None:
    """Raise a PlanError that names every use that is not known to be right."""
    legality = Legality(f"v{arch}", table or Table.load())
    found: dict[tuple[str, str], Diagnostic] = {}
    for use in dict.fromkeys(uses):
        problem = legality.problem(use)
        if problem is not None:  # one bucket is enough to say it
            found.setdefault((use.node, use.lowering), _diagnostic(use, problem, legality.arch))
    if found:
        raise PlanError(*found.values())


def _diagnostic(use: Use, problem: str, arch: str) -> Diagnostic:
    text = f"`{use.node}` would become `{use.lowering}`, which {problem}"
    *ways, last = _ways(use, arch)
    return Diagnostic("E0640", text, help=", ".join(ways) + f", or {last}")


def _ways(use: Use, arch: str) -> Iterator[str]:
    """What the user can do, as far as it changes this use."""
    shape = dict(use.shape)
    yield f'`place (device = cpu) on "{use.node}"`'
    if shape.keys() & {"tokens", "context", "rows"}:
        yield "choose other buckets"
    if shape.keys() & {"bits", "weights"}:
        yield "another weight format"
    if use.lowering.startswith(("u8.", "u16.")):
        yield "leave its activations in fp16"
    yield f"extend the table: `python -m edgec.targets.qnn.conformance.measure --arch {arch}`"


def _class(lowering: str, shape: Iterable[tuple[str, int | str | bool]]) -> tuple:
    return lowering, tuple(sorted((name, value) for name, value in shape if name not in NUMBERS))


def _words(shape: dict[str, int | str | bool]) -> str:
    return ", ".join(f"{name} {value}" for name, value in shape.items()) or "any shape"


def summary(rows: Sequence[Row]) -> dict[str, int]:
    """How many rows have each verdict."""
    return {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("right", *_SAY)}
