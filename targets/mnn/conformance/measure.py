"""How a case of the grid is run on MNN: one op beside ONNX Runtime, one linear beside its product in float64.

An op is right within 1e-5 of the largest magnitude; a linear too with `memory = normal`, and within 0.03 with `low`,
which rounds activations to int8 on the way in.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ....compiler.diagnostics.diagnostic import EngineError
from ....compiler.emit.conformance.measure import Case
from ....compiler.emit.conformance.op_class import Cell
from ....compiler.emit.conformance.table import RIGHT, Row
from ....compiler.files.scratch import scratch_folder
from ..graph.ops import HANDLERS
from .linears import LinearFormat, formats
from .one_op_graphs import OpGraph, op_graphs
from .table import PLACE, TABLE

EXACT_BOUND = 1e-5  # memory = normal: float32 arithmetic on the stored weights
LOW_BOUND = 0.03
_TOOLS = ("MNN", "onnxruntime", "onnx")


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
            with scratch_folder("case") as folder:
                verdict, figures = _run(case.make(), folder)
            yield Row(place, case.lowering, dict(self.shape_of(case)), verdict, figures)

    def tools(self) -> dict[str, str]:
        """Versions of the engine, the oracle and the schemas."""
        return {tool: importlib.metadata.version(tool) for tool in _TOOLS}


def _run(made: OpGraph | LinearFormat, folder: Path) -> tuple[str, dict[str, float]]:
    try:
        if isinstance(made, OpGraph):
            figures = {"error": made.error(folder)}
            right = figures["error"] <= EXACT_BOUND
        else:
            figures = made.errors(folder)
            right = figures["normal"] <= EXACT_BOUND and figures["low"] <= LOW_BOUND
    except EngineError as error:
        return "crash" if error.diagnostics[0].code == "E0990" else "rejected", {}
    return RIGHT if right else "wrong", figures
