"""How a case of the grid is run on MNN: one op beside ONNX Runtime, one linear beside its product in float64.

An op is right within 1e-5 of the largest magnitude; a linear too with `memory = normal`, and within 0.03 with `low`,
which rounds activations to int8 on the way in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import onnx_ir as ir

from ....compiler.diagnostics.diagnostic import EngineError
from ....compiler.emit.conformance.measure import Case
from ....compiler.emit.conformance.op_class import Cell
from ....compiler.emit.conformance.table import RIGHT, Row
from ....compiler.files.scratch import scratch_folder
from ..graph.ops import HANDLERS
from .linears import LinearFormat, formats
from .one_op_graphs import OpGraph, error_of, op_graphs
from .table import EXACT_BOUND, LOW_BOUND, PLACE, TABLE, tool_versions


class MnnBench:
    """The cases of MNN; there is one place."""

    places = (PLACE,)
    table = TABLE

    def cases(self, quick: bool) -> Iterator[Case]:
        """Every op with a lowering, then every weight format; `quick` changes nothing, a full run takes a minute."""
        for op in sorted(HANDLERS):
            for graph in op_graphs(op):
                yield Case(op, tuple(sorted(graph.words().items())), lambda graph=graph: graph)
        for format in formats():
            yield Case("linear", (("format", format.name),), lambda format=format: format)

    def shape_of(self, case: Case) -> Mapping[str, Cell]:
        """The shape that the lowering would look up."""
        made: OpGraph | LinearFormat = case.make()
        return made.shape() if isinstance(made, OpGraph) else dict(case.shape)

    def run(self, place: str, cases: Iterable[Case]) -> Iterator[Row]:
        """One row per case."""
        for case in cases:
            verdict, figures = run_case(case.make())
            yield Row(place, case.lowering, dict(self.shape_of(case)), verdict, figures)

    def tools(self) -> dict[str, str]:
        """Versions of the engine, the oracle and the schemas."""
        return tool_versions()


def run_case(made: OpGraph | LinearFormat | ir.Model) -> tuple[str, dict[str, float]]:
    """The verdict and the figures of an op, of a graph with one op, or of a weight's format."""
    with scratch_folder("case") as folder:
        return _run(made, folder)


def _run(made: OpGraph | LinearFormat | ir.Model, folder: Path) -> tuple[str, dict[str, float]]:
    try:
        if isinstance(made, LinearFormat):
            figures = made.errors(folder)
            right = figures["normal"] <= EXACT_BOUND and figures["low"] <= LOW_BOUND
        else:
            figures = {"error": made.error(folder) if isinstance(made, OpGraph) else error_of(made, folder)}
            right = figures["error"] <= EXACT_BOUND
    except EngineError as error:
        return "crash" if error.diagnostics[0].code == "E0990" else "rejected", {}
    return RIGHT if right else "wrong", figures
