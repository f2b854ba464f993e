"""All graphs of one part lowered, their weights shared."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from .builder import WeightStore
from .lowering import Lowered, Lowering
from .rules import RULES


def lower(graphs: Mapping[str, ir.Model], store: WeightStore | None = None) -> dict[str, Lowered]:
    """All graphs of one part, their weights shared."""
    from .static_shapes import infer_shapes

    store = store or WeightStore()
    lowered = {}
    for name, model in graphs.items():
        lowered[name] = Lowering(name, infer_shapes(model).graph, store, RULES).run()
    return lowered
