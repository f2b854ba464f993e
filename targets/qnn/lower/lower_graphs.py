"""All graphs of one part lowered, their weights shared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from .builder import WeightStore
from .lowering import Lowered, Lowering
from .rules import RULES
from .static_shapes import infer_shapes


def lower(
    graphs: Mapping[str, ir.Model], store: WeightStore | None = None, least_rows: int = 1, span: float | None = None
) -> dict[str, Lowered]:
    """All graphs of one part, their weights shared; linears on integers are fed at least `least_rows` rows.

    `span`: the widest range of scores in all parts (`integer_activations.widest_scores`); None: in each graph.
    """
    return {name: lowering.run() for name, lowering in lowerings(graphs, store or WeightStore(), least_rows, span)}


def lowerings(
    graphs: Mapping[str, ir.Model], store: WeightStore, least_rows: int = 1, span: float | None = None
) -> Iterator[tuple[str, Lowering]]:
    """A lowering of each graph that has not begun, its missing shapes inferred."""
    for name, model in graphs.items():
        yield name, Lowering(name, infer_shapes(model).graph, store, RULES, least_rows, span)
