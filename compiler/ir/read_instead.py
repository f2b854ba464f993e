"""A value that is read in the place of another one."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir


def read_instead(graph: ir.Graph, old: ir.Value, new: ir.Value, keep: Collection[ir.Node | None]) -> None:
    """Let `new` be what is read and given out in the place of `old`, which the nodes of `keep` alone read on."""
    for use in list(old.uses()):
        if use.node not in keep:
            use.node.replace_input_with(use.idx, new)
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = new


def take_over(graph: ir.Graph, old: ir.Value, new: ir.Value, keep: Collection[ir.Node | None]) -> None:
    """As `read_instead`, and a graph output keeps its name: `old` is then called `<name>.exact`."""
    given_out = any(output is old for output in graph.outputs)
    read_instead(graph, old, new, keep)
    if given_out:
        old.name, new.name = f"{old.name}.exact", old.name
