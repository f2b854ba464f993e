"""Float weights of linears and embeddings stored as float16, in graphs that compute in float32.

    MatMul(x, Transpose(w))  ->  MatMul(x, Transpose(Cast(w16)))        ONNX Runtime casts when it loads the graph
    Gather(w, ids)           ->  Cast(Gather(w16, ids))                 only the rows that are looked up are cast

A weight with a value that float16 cannot hold stays float32, and is named.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ...compiler.ir.annotations import Transform
from ...compiler.ir.linears import Linear, linears
from ...compiler.ir.module import Module, drop_unused_initializers, initializer
from ...compiler.ir.weights import Weight, derive
from .lower import as_float32

_LARGEST = 65504.0


@dataclass
class HalfFloats:
    """The float16 weights of all graphs of a model, each made once.

    stored  linear -> the floats that are written for it
    wide    linears whose floats float16 cannot hold
    """

    module: Module
    made: dict[tuple[object, ...], Weight | None] = field(default_factory=dict)
    stored: dict[str, Weight] = field(default_factory=dict)
    wide: dict[str, None] = field(default_factory=dict)

    def run(self, graph: ir.Graph) -> None:
        """Rewrite `graph` in place."""
        for linear in list(linears(self.module, graph)):
            if linear.stored is None or linear.stored.dtype != ir.DataType.FLOAT or linear.kind == "own":
                continue
            half = self._half(linear.stored)
            if half is None:
                self.wide[linear.name] = None
                continue
            self._replace(graph, linear, half)
            self.stored[linear.name] = half
        drop_unused_initializers(graph)

    def _half(self, weight: Weight) -> Weight | None:
        key = (weight.name, weight.origin, weight.dims)  # an imported graph's tensors are wrapped anew in every bucket
        if key not in self.made:
            self.made[key] = _half(weight) if _fits(weight) else None
        return self.made[key]

    @staticmethod
    def _replace(graph: ir.Graph, linear: Linear, half: Weight) -> None:
        held = initializer(graph, half.name, half)
        if linear.kind != "gather":
            wide = as_float32(graph, held)
            for use in list(linear.value.uses()):
                if use.node is linear.node or use.node.op_type == "Transpose":
                    use.node.replace_input_with(use.idx, wide)
            return
        node, old = linear.node, linear.node.outputs[0]
        node.replace_input_with(0, held)
        name = old.name or linear.name
        cast = ir.node("Cast", [old], {"to": ir.DataType.FLOAT}, name=f"{linear.name}.cast")
        new = cast.outputs[0]
        new.shape, new.type = old.shape, old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        cast.replace_input_with(0, old)
        old.name, new.name, old.type = f"{name}.half", name, ir.TensorType(ir.DataType.FLOAT16)
        graph.insert_after(node, cast)


def _fits(weight: Weight) -> bool:
    return all(bool(np.abs(block).max(initial=0.0) <= _LARGEST) for _, block in weight.blocks())


def _half(weight: Weight) -> Weight:
    def rows(start: int, stop: int) -> np.ndarray:
        return weight.rows(start, stop).astype(np.float16)

    name = f"{weight.name}.half"
    return derive(name, ir.DataType.FLOAT16, weight.dims, rows, weight, Transform.CAST, "float16")
