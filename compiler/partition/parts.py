"""Cut a placed module into its parts, and say what goes from part to part.

    module --cut_by_placement, for every bucket--> the same parts --extract_part--> graphs of their own
                                                   transfers between them --> PartGraph, Schedule

All buckets are cut at the same places, and all parts refer to the weights they were cut from. Values that cross have
readable names, the same in every bucket: Genie's where a decoder is cut beside its embedding or its head, otherwise
the name of the op that computes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ..bundle.schedule import Schedule, Transfer, lanes_by_device
from ..diagnostics.diagnostic import fail
from ..emit.part import Part
from ..ir.activation_encodings import encoding_of
from ..ir.annotations import SHADOW
from ..ir.bodies import inside
from ..ir.clone import clone_model
from ..ir.module import Module
from .cut_by_placement import Cut, cut
from .extract_part import extract_parts
from .pairs_follow import pairs_follow, round_again
from .placement import Placement

SUM = ".shadow.add"  # behind a linear's name: the op that adds its shadow


@dataclass(frozen=True)
class PartGraph:
    """The parts of a module in an order in which they can run, and the transfers between them; it has no circle.

    `notes` are for people: what runs on another device than its line says, what is stored twice. `fallen`: the ops, as
    name and type, that run on the CPU since the target has no form for them.
    """

    parts: list[Part]
    transfers: tuple[Transfer, ...] = ()
    notes: tuple[str, ...] = ()
    fallen: tuple[str, ...] = ()

    def schedule(self) -> Schedule:
        """One lane per device; parts of two lanes overlap where no transfer orders them."""
        order = tuple(part.name for part in self.parts)
        return Schedule(order, lanes_by_device({part.name: part.device for part in self.parts}, order), self.transfers)


def partition(module: Module, deploy_device: str) -> PartGraph:
    """Cut `module` into parts named `<model>.<device><place in the order>`; its integer pairs are placed on the way.

    `deploy_device`: the device of ops that are placed on none. Errors: E0501 (an NPU op beside a CPU deploy), E0502 (no
    device), E0504 (buckets placed differently), E0506 (no shard).
    """
    pairs_follow(module, deploy_device)
    cuts = {key: cut(module, key, deploy_device) for key in module.graphs}
    first = next(iter(cuts.values()))
    names = [f"{module.name}.{place.device}{index}" for index, place in enumerate(first.placements)]
    if len(names) == 1:
        whole = first.placements[0].device != "npu"
        graphs = {key: model if whole else _computed(model) for key, model in module.graphs.items()}
        return PartGraph([_part(names[0], first.placements[0], graphs)])
    _demand_one_cut(module, cuts)
    tensors = _boundary_names(module, first)
    graphs = {key: extract_parts(module.graphs[key], own, tensors) for key, own in cuts.items()}
    for key, own in cuts.items():
        round_again(own, tensors, graphs[key], deploy_device)
    parts = [
        _part(name, place, {key: made[index] for key, made in graphs.items()})
        for index, (name, place) in enumerate(zip(names, first.placements, strict=True))
    ]
    return PartGraph(parts, tuple(_transfers(first, names, tensors)))


def _computed(model: ir.Model) -> ir.Model:
    """The graph without outputs that are inputs as they stand: an NPU gives only what it computes."""
    own = [not value.is_graph_input() for value in model.graph.outputs]
    if all(own) or not any(own):
        return model
    copy = clone_model(model)
    copy.graph.outputs[:] = [value for value, computed in zip(copy.graph.outputs, own, strict=True) if computed]
    return copy


def _part(name: str, place: Placement, graphs: dict[str, ir.Model]) -> Part:
    return Part(name, place.device, graphs, target=place.target, shard=place.shard)


def _demand_one_cut(module: Module, cuts: dict[str, Cut]) -> None:
    plans = {key: list(zip(own.placements, map(own.names, own.members), strict=True)) for key, own in cuts.items()}
    first_key, first = next(iter(plans.items()))
    for key, plan in plans.items():
        if plan != first:
            fail(
                "E0504",
                f"buckets `{first_key}` and `{key}` of `{module.name}` are not cut at the same ops",
                help="place ops before `bucket`, so that every bucket gets the same devices",
            )


def _transfers(own: Cut, parts: list[str], tensors: dict[str, str]) -> Iterator[Transfer]:
    for value, readers in own.crossing.items():
        producer = value.producer()
        assert producer is not None  # a value crosses because a node of one part computes it
        node, at = _computed_by(value, producer)
        for reader in readers:
            yield Transfer(tensors[value.name or ""], parts[own.home[producer]], parts[reader], _in_the_model(node), at)


def _in_the_model(node: ir.Node) -> str:
    """The op of the float model whose value a node has: a linear with a shadow has it in the sum only."""
    name = node.name or ""
    role = SHADOW.get(node)
    if role == "sum":
        return name.removesuffix(SUM)
    return f"{name}.clipped" if role == "main" else name


def _computed_by(value: ir.Value, node: ir.Node) -> tuple[ir.Node, int]:
    """The op that computes `value`, behind the pairs that round it, and which of its outputs it is."""
    before = node.inputs[0] if encoding_of(node) is not None else None
    maker = None if before is None else before.producer()
    if before is not None and maker is not None:
        return _computed_by(before, maker)
    return node, next(i for i, output in enumerate(node.outputs) if output is value)


def _boundary_names(module: Module, own: Cut) -> dict[str, str]:
    """Value -> its name as a graph input and output; readable, and the same in every bucket."""
    taken = {value.name for model in module.graphs.values() for value in _values(model.graph)}
    names: dict[str, str] = {}
    for value in own.crossing:
        producer = value.producer()
        if value.is_graph_output() or producer is None:
            names[value.name or ""] = value.name or ""
            continue
        wished = _readable(module, value, producer)
        names[value.name or ""] = wished if wished not in taken else value.name or ""
        taken.add(wished)
    return names


def _readable(module: Module, value: ir.Value, producer: ir.Node) -> str:
    if module.arch is not None:
        if producer.name == "embed_tokens":
            return "inputs_embeds"
        if any(use.node.name == "lm_head" for use in value.uses()):
            return "hidden_states"
    outputs = [output for output in producer.outputs if Module.readers(output)]
    return producer.name or "" if len(outputs) == 1 else f"{producer.name}.{outputs.index(value)}"


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        for one in (node, *inside(node)):
            yield from one.outputs
