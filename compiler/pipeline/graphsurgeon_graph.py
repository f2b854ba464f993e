"""A module's graph as a `gs.Graph` and back, with its weights left where they are until someone looks.

onnx-ir  --(big constants as inputs)-->  ModelProto  -->  gs.Graph, big constants lazy  --pass-->  ...  --> onnx-ir
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ..diagnostics.diagnostic import EngineError, fail
from ..ir.clone import clone_model
from ..ir.module import MAIN, Module, drop_unused_initializers
from ..ir.weightless import give_weights, take_weights
from ..ir.weights import Weight, as_weight, from_array
from ..sources.onnx.load_onnx import name_nodes
from .pass_interface import Scope

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

_LOST = frozenset(ir.DataType[name] for name in ("INT2", "UINT2", "INT4", "UINT4", "FLOAT4E2M1"))


def rewrite(module: Module, function: Callable[[gs.Graph], Any], name: str, scope: Scope) -> int:
    """Let `function` change the module's graph; the number of changes."""
    surgeon = _surgeon(scope)
    model = module.graphs[MAIN]
    _refuse_small_integers(module, name, scope)
    copy = clone_model(model)
    weights = {key: as_weight(tensor) for key, tensor in take_weights(copy.graph).items()}
    proto = ir.to_proto(copy)
    graph = surgeon.import_onnx(proto)
    lazy = _lazy_class(surgeon)
    for key, tensor in graph.tensors().items():
        if key in weights:
            tensor.to_constant(lazy(weights[key]))
    graph.inputs = [tensor for tensor in graph.inputs if tensor.name not in weights]
    count, graph = _understand(function(graph), graph, surgeon, name, scope)
    kept = _settle(graph, lazy, weights)
    made = _export(surgeon, graph, kept)
    if count is None:
        count = int(
            kept.keys() != weights.keys() or _bytes(made) != _bytes(_export(surgeon, *_fresh(surgeon, proto, weights)))
        )
    if count:
        module.graphs[MAIN] = _back(made, kept, model)
    return count


def _surgeon(scope: Scope) -> Any:
    try:
        import onnx_graphsurgeon
    except ImportError:
        fail(
            "E0415",
            "this pass is written with onnx-graphsurgeon, which is not installed",
            scope.origin,
            help="pip install edgec[graphsurgeon]",
            kind=EngineError,
        )
    return onnx_graphsurgeon


def _refuse_small_integers(module: Module, name: str, scope: Scope) -> None:
    for key, value in module.graphs[MAIN].graph.initializers.items():
        if value.const_value is not None and value.const_value.dtype in _LOST:
            fail(
                "E0414",
                f"`{name}` is written with onnx-graphsurgeon, which cannot hold `{key}` "
                f"({value.const_value.dtype.name.lower()})",
                scope.origin,
                help="write it as a `Pass` on onnx-ir to work on quantised weights",
            )


def _lazy_class(surgeon: Any) -> Any:
    from onnx_graphsurgeon.ir.tensor import LazyValues

    class LazyWeight(LazyValues):
        """A weight that is read when its values are asked for."""

        def __init__(self, weight: Weight) -> None:
            self.weight = weight
            self.shape = list(weight.dims)
            self.dtype = weight.dtype.numpy()
            self.nbytes = weight.nbytes

        def load(self) -> np.ndarray:
            return np.array(self.weight.numpy())

    return LazyWeight


def _understand(result: Any, graph: gs.Graph, surgeon: Any, name: str, scope: Scope) -> tuple[int | None, gs.Graph]:
    if result is None:
        return None, graph
    if isinstance(result, surgeon.Graph):
        return None, result
    if isinstance(result, int):
        return int(result), graph
    fail(
        "E0406",
        f"`{name}` returned a {type(result).__name__}",
        scope.origin,
        kind=EngineError,
        help="return the number of changes, the graph, or nothing",
    )


def _settle(graph: gs.Graph, lazy: Any, weights: dict[str, Weight]) -> dict[str, Weight]:
    """Constants that are still what they were, by the name they have now; they stay lazy."""
    graph.cleanup(remove_unused_graph_inputs=False)
    kept = {}
    for key, tensor in graph.tensors().items():
        values: Any = getattr(tensor, "_values", None)
        if isinstance(values, lazy):
            kept[key] = values.weight
        elif isinstance(values, np.ndarray) and key in weights and _same(values, weights[key]):
            kept[key] = weights[key]
    for key, weight in kept.items():
        tensor = graph.tensors()[key]
        tensor.to_variable(weight.dtype.numpy(), list(weight.dims))
    return kept


def _same(values: np.ndarray, weight: Weight) -> bool:
    if values.shape != weight.dims or values.dtype != weight.dtype.numpy():
        return False
    return all(np.array_equal(values[at : at + len(rows)], rows) for at, rows in weight.blocks())


def _export(surgeon: Any, graph: gs.Graph, kept: dict[str, Weight]) -> onnx.ModelProto:
    tensors = graph.tensors()
    graph.inputs = [*graph.inputs, *(tensors[key] for key in sorted(kept))]
    return surgeon.export_onnx(graph)


def _fresh(surgeon: Any, proto: onnx.ModelProto, weights: dict[str, Weight]) -> tuple[gs.Graph, dict[str, Weight]]:
    """The graph as it was, to be exported the same way."""
    graph = surgeon.import_onnx(proto)
    graph.inputs = [tensor for tensor in graph.inputs if tensor.name not in weights]
    graph.cleanup(remove_unused_graph_inputs=False)
    return graph, {key: weights[key] for key in graph.tensors() if key in weights}


def _unless_same(before: ir.Value | None, made: Weight) -> Weight:
    """What `before` holds if that has the numbers of `made`: it may carry facts."""
    held = None if before is None or before.const_value is None else as_weight(before.const_value)
    return held if held is not None and _same(made.numpy(), held) else made


def _bytes(proto: onnx.ModelProto) -> bytes:
    return proto.SerializeToString(deterministic=True)


def _back(proto: onnx.ModelProto, kept: dict[str, Weight], old: ir.Model) -> ir.Model:
    """The proto as onnx-ir, with the lazy weights and what graphsurgeon does not carry."""
    proto.ir_version = old.ir_version
    proto.producer_name = old.producer_name or ""
    model = ir.from_proto(proto)
    graph = model.graph
    graph.sort()  # a function may append what comes earlier
    for key, weight in kept.items():
        weight.name = key
    give_weights(graph, kept)
    for key, value in graph.initializers.items():
        if value.const_value is not None and not isinstance(value.const_value, Weight):
            before = old.graph.initializers.get(key)
            value.const_value = _unless_same(before, from_array(key, value.const_value.numpy(), "graphsurgeon"))
    metadata = {node.name: node.metadata_props for node in old.graph}
    for node in graph:
        node.metadata_props.update(metadata.get(node.name, {}))
    model.metadata_props.update(old.metadata_props)
    graph.metadata_props.update(old.graph.metadata_props)
    name_nodes(model)
    drop_unused_initializers(graph)
    return model
