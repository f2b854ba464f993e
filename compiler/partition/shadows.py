"""Shadows of linears beside an NPU: they run on the CPU while the linears themselves run in a part of their own.

    npu   first ─┬─ Clip, linears ──┬─ Add, rest        shard of Clip and linears = 1
    cpu          └─ hot channels ───┘

Without the shard the linears would join the part of what comes before them, and nothing would run beside the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ..diagnostics.wording import count
from ..ir.activation_encodings import encoding_of
from ..ir.annotations import DEVICE, SHADOW, SHARD
from ..ir.linears import as_linear
from ..ir.module import Module
from .cut_by_placement import cut

BESIDE = 1  # the shard


def shadows_on_cpu(module: Module, deploy_device: str) -> list[str]:
    """Place shadows on the CPU, in every graph, and their linears in a shard of their own; a note on what crosses."""
    found = False
    for model in module.graphs.values():
        for node in model.graph:
            if SHADOW.get(node) == "cpu":
                DEVICE.set(node, "cpu")
                found = True
            elif SHADOW.get(node) == "main":
                for one in _together(node):
                    SHARD.set(one, BESIDE)
    return [_crossings(module, deploy_device)] if found else []


def _together(main: ir.Node) -> set[ir.Node]:
    """All linears that read what `main` reads, with the nodes that round for them: what follows waits for each of them.

    One that were not among them would be in an earlier part, and what it makes of the K/V cache too.
    """
    value, producer = main.inputs[0], main
    while producer is not None and SHADOW.get(producer) != "clip":
        producer = None if value is None else value.producer()
        value = None if producer is None else producer.inputs[0]
    return set() if value is None else _to_linears(value)


def _to_linears(value: ir.Value) -> set[ir.Node]:
    """The linears that read `value`, with the Clips and pairs in front of them and the pairs behind."""
    found: set[ir.Node] = set()
    for node in {use.node for use in value.uses()}:
        linear = as_linear(node)
        if SHADOW.get(node) == "clip" or encoding_of(node) is not None:
            behind = _to_linears(node.outputs[0])
            found |= behind | ({node} if behind else set())
        elif SHADOW.get(node) != "cpu" and linear is not None and linear.kind == "matmul":
            found |= {node, *_pairs_behind(node)}
    return found


def _pairs_behind(node: ir.Node) -> Iterator[ir.Node]:
    readers = [use.node for use in node.outputs[0].uses()]
    while len(readers) == 1 and (encoding_of(readers[0]) is not None or SHADOW.get(readers[0]) == "clip"):
        yield readers[0]
        readers = [use.node for use in readers[0].outputs[0].uses()]


def _crossings(module: Module, deploy_device: str) -> str:
    """How often values go between the devices for shadows, and how often without sharing: twice for each linear."""
    key, model = next(iter(module.graphs.items()))
    made = cut(module, key, deploy_device)
    sides = {made.home[node] for node in model.graph if SHADOW.get(node) == "cpu" and node in made.home}
    linears = sum(SHADOW.get(node) == "main" for node in model.graph)
    layers = module.arch.layers if module.arch is not None else 1
    each = 2 * len(sides) / layers
    return (
        f"shadows of `{module.name}` cross between NPU and CPU {each:.2g} times a layer on average, to "
        f"{count(len(sides), 'part')} and back; with a part for each linear ({linears}) it would be "
        f"{2 * linears / layers:.2g} times"
    )
