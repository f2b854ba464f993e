"""Measure a conformance table: run every case of a target on its engine against the oracle and keep the rows.

A target gives a `Bench`: its cases, how one is run, and where its table is. `run_bench` is the command line of all:

    python -m TARGET.conformance [--on PLACE] [--quick] [--missing] [--only NAME] [--output FILE] [--summary]

verdict   right      within the bench's bounds of the oracle
          wrong      the engine took the graph and the numbers are others
          rejected   the engine refused the graph
          crash      the engine died
unended   none of these in time: says nothing, and is not kept
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .op_class import Cell
from .table import RIGHT, VERDICTS, ConformanceTable, Row

if TYPE_CHECKING:
    import numpy as np

UNENDED = "unended"
_KEPT_EVERY = 10  # rows after which the table is written


@dataclass(frozen=True)
class Case:
    """A lowering at a shape, and what is run for it: `make()` gives what the target's bench knows how to run.

    `raw` graphs are compiled as they stand: on record for what an engine computes wrong, nothing an emitter chooses.
    """

    lowering: str
    shape: tuple[tuple[str, Cell], ...]
    make: Callable[[], Any]
    raw: bool = False

    @property
    def name(self) -> str:
        """The lowering and its shape on one line, for `--only` and for progress."""
        return " ".join([self.lowering, *(f"{key}={value}" for key, value in self.shape)])


class Bench(Protocol):
    """What a target gives to have its table measured."""

    @property
    def places(self) -> Sequence[str]:
        """What rows can be of (architectures, machines), the default first."""
        ...

    @property
    def table(self) -> Path:
        """The table's file."""
        ...

    def cases(self, quick: bool) -> Iterable[Case]:
        """The grid; `quick` keeps the corners of each class."""
        ...

    def shape_of(self, case: Case) -> Mapping[str, Cell]:
        """The shape of the use that the case becomes, as a row has it."""
        ...

    def run(self, place: str, cases: Iterable[Case]) -> Iterator[Row]:
        """A row per case, in order; the verdict `unended` for one that came to no end."""
        ...

    def tools(self) -> dict[str, str]:
        """Versions of what decides the numbers."""
        ...


@dataclass(frozen=True)
class Bounds:
    """Right is: max|y - y0| <= error * max|y0| over every output, and the least cosine(y, y0) at least `cosine`."""

    error: float
    cosine: float = -1.0


def verdict_of(
    outputs: Mapping[str, np.ndarray], oracle: Mapping[str, np.ndarray], bounds: Bounds
) -> tuple[str, dict[str, float]]:
    """`right` or `wrong`, and the figures `error` and `cosine`, each the worst over all outputs of the oracle."""
    import numpy as np

    error, cosine = 0.0, 1.0
    for name, expected in oracle.items():
        y, y0 = outputs[name].astype(np.float64).ravel(), expected.astype(np.float64).ravel()
        if y.shape != y0.shape or not np.isfinite(y).all():
            return "wrong", {"error": math.inf, "cosine": 0.0}
        error = max(error, float(np.abs(y - y0).max() / max(np.abs(y0).max(), 1e-12)))
        norms = float(np.linalg.norm(y) * np.linalg.norm(y0))
        cosine = min(cosine, float(y @ y0) / norms if norms else float(np.array_equal(y, y0)))
    right = error <= bounds.error and cosine >= bounds.cosine
    return (RIGHT if right else "wrong"), {"error": error, "cosine": cosine}


def worst(rows: Iterable[Row]) -> list[Row]:
    """One row per lowering and shape: the worst of those that share it."""
    kept: dict[Any, Row] = {}
    for row in rows:
        if row.verdict == UNENDED:
            continue
        old = kept.get(row.key)
        if old is None or _severity(row) > _severity(old):
            kept[row.key] = row
    return list(kept.values())


def _severity(row: Row) -> tuple[int, float]:
    return VERDICTS.index(row.verdict), max((v for v in row.figures.values() if not math.isnan(v)), default=0.0)


def measure(
    bench: Bench, place: str, cases: Sequence[Case], output: Path, replaces: Callable[[Row], bool] | None = None
) -> list[Row]:
    """Run `cases` and put their rows into the table in `output`; progress on stderr.

    `replaces` names old rows that go once every case was run, even where no new row has their key.
    """
    rows: list[Row] = []
    for index, row in enumerate(bench.run(place, cases)):
        rows.append(row)
        if row.verdict != RIGHT or index % 50 == 0:
            figures = " ".join(f"{name} {value:.4g}" for name, value in row.figures.items())
            print(f"{index + 1}/{len(cases)} {cases[index].name}: {row.verdict} {figures}", file=sys.stderr, flush=True)
        if index % _KEPT_EVERY == _KEPT_EVERY - 1:
            _keep(bench, place, rows, output)
    _keep(bench, place, rows, output, replaces)
    return rows


def _keep(
    bench: Bench, place: str, rows: list[Row], output: Path, replaces: Callable[[Row], bool] | None = None
) -> None:
    table = ConformanceTable.load(output) if output.exists() else ConformanceTable()
    table.put(place, worst(rows), bench.tools(), replaces)
    table.save(output)


def run_bench(bench: Bench, prog: str, arguments: Sequence[str] | None = None) -> int:
    """The command line of a bench: measure one place, or print what the table says."""
    parser = argparse.ArgumentParser(prog=prog)
    parser.add_argument("--on", "--arch", default=bench.places[0], choices=bench.places, help="where it is run")
    parser.add_argument("--quick", action="store_true", help="a few shapes of each lowering")
    parser.add_argument("--missing", action="store_true", help="only cases whose row the table lacks")
    parser.add_argument("--only", default="", help="only lowerings whose name begins so")
    parser.add_argument("--output", type=Path, default=bench.table, help="the table's file")
    parser.add_argument("--summary", action="store_true", help="print how many rows of the table have each verdict")
    options = parser.parse_args(arguments)
    if options.summary:
        print(json.dumps(ConformanceTable.load(options.output).summary(), indent=1))
        return 0
    cases = [case for case in bench.cases(options.quick) if case.lowering.startswith(options.only)]
    if options.missing:
        cases = _missing(bench, options.on, cases, options.output)
    start = time.monotonic()
    rows = measure(bench, options.on, cases, options.output, _replaced(cases, options))
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in (*VERDICTS, UNENDED)}
    print(json.dumps({"on": options.on, "seconds": round(time.monotonic() - start), **counts}))
    return 0


def _replaced(cases: Sequence[Case], options: argparse.Namespace) -> Callable[[Row], bool] | None:
    """A run of everything makes the table anew, one of some lowerings these."""
    if options.missing:
        return None
    again = {case.lowering for case in cases}
    return lambda row: not options.only or row.lowering in again


def _missing(bench: Bench, place: str, cases: Iterable[Case], path: Path) -> list[Case]:
    known = {row.key for row in ConformanceTable.load(path).rows} if path.exists() else set()
    return [case for case in cases if Row(place, case.lowering, dict(bench.shape_of(case)), RIGHT).key not in known]
