"""Ops and weight formats that MNN's table lacks, run on MNN: the node alone, a linear of the format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from ....compiler.emit.conformance.legality import Legality
from ....compiler.emit.conformance.local_table import LocalTable
from ....compiler.emit.conformance.measure import Case
from ....compiler.emit.conformance.one_op import alone
from ....compiler.emit.conformance.op_class import Use
from ....compiler.emit.conformance.proof import Trial
from ....compiler.emit.conformance.table import Row
from ....compiler.emit.part import Part
from ..graph.op_classes import use_of
from .linears import LinearFormat
from .measure import run_case
from .table import PLACE, legality, local_table

_SECONDS = 1.0  # any case of the grid takes less


@dataclass
class MnnProver:
    """Runs uses of some parts on MNN."""

    parts: Iterable[Part]
    engine: str = "MNN"

    @property
    def local(self) -> LocalTable:
        """Where rows are kept."""
        return local_table()

    def legality(self) -> Legality:
        """The judge by both tables as they are now."""
        return legality()

    def trials(self, use: Use) -> list[Trial]:
        """One run; none for a format with more words, or an op that cannot stand alone."""
        if use.lowering == "linear":
            format = LinearFormat.parse(str(dict(use.shape)["format"]))
            return [] if format is None else [Trial(Case("linear", use.shape, lambda: format), _SECONDS)]
        model = self._model(use)
        return [] if model is None else [Trial(Case(use.lowering, use.shape, lambda: model), _SECONDS)]

    def run(self, trial: Trial) -> Row:
        """MNN beside ONNX Runtime, or beside the product in float64."""
        case = trial.case
        return Row(PLACE, case.lowering, dict(case.shape), *run_case(case.make()))

    def _model(self, use: Use) -> ir.Model | None:
        nodes = (node for part in self.parts for graph in part.graphs.values() for node in graph.graph)
        node = next((one for one in nodes if one.name == use.node), None)
        model = None if node is None else alone(node)
        return model if model is not None and use_of(next(iter(model.graph))).shape == use.shape else None
