"""A graph in the oracle with every float rounded to float16, as an engine that computes in float16 rounds it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..ir.clone import clone_model
from ..ir.graph_queries import is_tensor_of
from ..ir.read_instead import take_over
from ..oracle import oracle
from ..oracle.compare import Feeds

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def rounded_to_half(model: ir.Model, feeds: Feeds) -> dict[str, np.ndarray] | None:
    """The outputs of `model` where inputs, weights and the result of each op are rounded; None if it does not run."""
    copy = clone_model(model)
    graph = copy.graph
    sources = [*graph.inputs, *(v for v in graph.initializers.values() if v.const_value is not None and v.shape)]
    for index, value in enumerate(sources):
        if value.dtype == _FLOAT and value.uses():
            _round(graph, value, f"source{index}", before=True)
    for index, node in enumerate(list(graph)):
        if node.name and node.name.startswith("rounded/"):
            continue
        for value in node.outputs:
            if is_tensor_of(value, _FLOAT) and (value.uses() or value.is_graph_output()):
                _round(graph, value, f"made{index}", before=False)
    try:
        return oracle.run(copy, feeds)
    except OSError:  # no room for a file of it: that is no refusal
        raise
    except Exception:  # the engine raises types of its own for each kind of refusal
        return None


def _round(graph: ir.Graph, value: ir.Value, name: str, before: bool) -> None:
    """Let every reader of `value` read it through float16; a graph output keeps its name."""
    down = ir.node("Cast", [value], {"to": int(_HALF)}, name=f"rounded/{name}/down")
    up = ir.node("Cast", [down.outputs[0]], {"to": int(_FLOAT)}, name=f"rounded/{name}/up")
    down.outputs[0].name, made = f"rounded.{name}.half", up.outputs[0]
    down.outputs[0].type = ir.TensorType(_HALF)
    made.name, made.type, made.shape = f"rounded.{name}", value.type, value.shape
    if before:  # where it is given out too, it stays as it comes
        for use in list(value.uses()):
            if use.node is not down:
                use.node.replace_input_with(use.idx, made)
        graph.insert_before(next(iter(graph)), [down, up])
        return
    producer = value.producer()
    assert producer is not None
    graph.insert_after(producer, [down, up])
    take_over(graph, value, made, (down,))
