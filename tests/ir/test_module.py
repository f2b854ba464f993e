"""A copy of a graph is rewritten without a trace in the original: clones, buckets, parts."""

from __future__ import annotations

import onnx_ir as ir
from edgec.compiler.ir.annotations import DEVICE
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import Module
from edgec.compiler.partition.parts import partition


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


def test_buckets_and_parts_share_no_type(stage) -> None:
    module = stage("m", "pycode-qwen2", 64, Level.STATIC, (1, 4))
    for node in module.nodes():
        DEVICE.set(node, "cpu" if (node.name or "").endswith("_proj") else "npu")
    parts = partition(module, "npu").parts
    graphs = [*module.graphs.values(), *(graph for part in parts for graph in part.graphs.values())]
    held = [id(value.type) for model in graphs for node in model.graph for value in node.outputs if value.type]
    assert len(held) > 300
    assert len(set(held)) == len(held)
