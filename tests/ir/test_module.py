"""A module's clone is rewritten without a trace in the original."""

from __future__ import annotations

import onnx_ir as ir
from edgec.compiler.ir.module import Module


def types(module: Module) -> list[tuple[str | None, ir.DataType | None]]:
    values = (value for node in module.main.graph for value in node.outputs)
    return [(value.name, value.dtype) for value in (*module.main.graph.inputs, *values)]


def test_types_of_a_clone_are_its_own(draft: Module) -> None:
    before = types(draft)
    copy = draft.clone()
    assert types(copy) == before
    for node in copy.main.graph:
        for value in node.outputs:
            value.dtype = ir.DataType.DOUBLE
    copy.main.graph.inputs[0].dtype = ir.DataType.INT64
    assert types(draft) == before
    assert types(copy) != before
