"""Ops with bodies (If, Loop, Scan): graphs of their own, which read values of the graph around them by name.

reads(node) = its inputs, then what its bodies, and theirs, take from outside of them
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs that a node carries as attributes; none for most."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += attribute.as_graphs()
    return found


def inside(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes of the bodies of `node`, at any depth."""
    for body in bodies(node):
        for inner in body:
            yield inner
            yield from inside(inner)


def reads(node: ir.Node) -> list[ir.Value]:
    """Every value that has to be there before `node` runs, each once."""
    found = [value for value in node.inputs if value is not None]
    for body in bodies(node):
        own = {*body.inputs, *body.initializers.values(), *(made for inner in body for made in inner.outputs)}
        read = [value for inner in body for value in reads(inner)] + list(body.outputs)
        found += [value for value in read if value not in own]
    return list(dict.fromkeys(found))
