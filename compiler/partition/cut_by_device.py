"""Cut a placed module into parts: stretches on one device each that run one after the other.

    stage(n) = least s >= stage(p) of all p that n reads, with device(s) = device(n)      devices alternate by stage

Stages only rise along edges, so a part never waits for a later one. What is computed from constants alone (the
dequantised weight of a linear), and what is made of graph inputs by shape and elementwise ops on the default device
(the angles of rotary embedding), is no work worth a boundary: each part that reads it holds its own copy. Every bucket
is cut at the same places, and all parts refer to the weights they were cut from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..diagnostics.diagnostic import fail
from ..emit.part import Part
from ..ir.module import DEVICE_KEY, Module, constant, drop_unused_initializers
from ..ir.placement import PLACES

# fmt: off
_CHEAP = frozenset((
    "Abs", "Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Cos", "Div", "Equal", "Expand", "Flatten",
    "Greater", "Identity", "Less", "Mul", "Neg", "Range", "Reshape", "Shape", "Sin", "Slice", "Split", "Sqrt",
    "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
))
# fmt: on


def partition(module: Module, deploy_device: str) -> list[Part]:
    """The parts of `module` in the order they run, named `<model>.<device><place in the chain>`."""
    cuts = {key: _cut(module, key, model.graph, deploy_device) for key, model in module.graphs.items()}
    first = next(iter(cuts.values()))
    if len(first.devices) == 1:
        return [Part(f"{module.name}.{first.devices[0]}0", first.devices[0], dict(module.graphs))]
    _demand_one_cut(module, cuts)
    names = _boundary_names(module, cuts)
    parts = []
    for index, device in enumerate(first.devices):
        graphs = {key: _extract(module.graphs[key], cut, index, names) for key, cut in cuts.items()}
        parts.append(Part(f"{module.name}.{device}{index}", device, graphs))
    return parts


@dataclass(frozen=True)
class _Cut:
    """Where each node of a graph goes. A node that is copied to its readers is in several parts."""

    nodes: list[ir.Node]
    devices: list[str]  # of each part
    members: list[set[int]]  # part -> positions in `nodes`
    home: dict[int, int]  # position -> the part that owns it; copied nodes have none

    def crossing(self) -> list[ir.Value]:
        """Values made in one part and read in another, in graph order."""
        index = {id(node): i for i, node in enumerate(self.nodes)}
        found = []
        for i, node in enumerate(self.nodes):
            home = self.home.get(i)
            if home is None:
                continue
            for value in node.outputs:
                readers = (index[id(use.node)] for use in value.uses())
                if any(r in members for r in readers for p, members in enumerate(self.members) if p != home):
                    found.append(value)
        return found


def _cut(module: Module, key: str, graph: ir.Graph, deploy_device: str) -> _Cut:
    nodes = list(graph)
    devices = [node.metadata_props.get(DEVICE_KEY, deploy_device) for node in nodes]
    _check_devices(module, nodes, devices, deploy_device)
    copied = _copied(nodes, devices, deploy_device)
    if len({devices[i] for i in range(len(nodes)) if i not in copied}) < 2:
        everything = set(range(len(nodes)))
        device = next((devices[i] for i in range(len(nodes)) if i not in copied), deploy_device)
        return _Cut(nodes, [device], [everything], dict.fromkeys(everything, 0))
    _refuse_control_flow(module, key, nodes)
    # the first stage's device is a choice: the one that needs fewer stages
    options = [
        _stages(nodes, devices, copied, first) for first in sorted(set(devices), key=lambda d: d != deploy_device)
    ]
    stages = min(options, key=lambda made: max(made.values()))
    used = sorted(set(stages.values()))
    home = {i: used.index(stage) for i, stage in stages.items()}
    part_devices = [next(devices[i] for i, p in home.items() if p == part) for part in range(len(used))]
    members = [{i for i, p in home.items() if p == part} for part in range(len(used))]
    _copy_to_readers(nodes, copied, members, home)
    return _Cut(nodes, part_devices, members, home)


def _check_devices(module: Module, nodes: Sequence[ir.Node], devices: Sequence[str], deploy_device: str) -> None:
    for node, device in zip(nodes, devices, strict=True):
        if device not in PLACES:
            fail(
                "E0502",
                f"`{node.name}` of `{module.name}` is placed on `{device}`, which is no device",
                help=f"devices are {' and '.join(f'`{place}`' for place in PLACES)}",
            )
        if device == "npu" and deploy_device == "cpu":
            fail(
                "E0501",
                f"`{node.name}` is placed on the NPU, but `{module.name}` is deployed on the CPU",
                help=f"deploy `{module.name}` on npu and place on the CPU what should run there",
            )


def _refuse_control_flow(module: Module, key: str, nodes: Sequence[ir.Node]) -> None:
    for node in nodes:
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            fail(
                "E0503",
                f"`{module.name}` cannot be split between devices: `{node.name}` ({node.op_type}) in graph "
                f"`{key}` has a body of its own",
                help="place the whole model on one device, or export it without loops",
            )


def _copied(nodes: Sequence[ir.Node], devices: Sequence[str], deploy_device: str) -> set[int]:
    """Nodes that go with their readers: of constants alone, or cheap ones of graph inputs on the default device."""
    copied: dict[int, bool] = {}  # id(node) -> whether it is of constants alone
    positions = set()
    for i, node in enumerate(nodes):
        kinds = [_constant_kind(value, copied) for value in node.inputs if value is not None]
        if any(value.is_graph_output() for value in node.outputs):
            continue
        constants = all(kind is True for kind in kinds)
        cheap = node.op_type in _CHEAP and node.domain in ("", "ai.onnx") and devices[i] == deploy_device
        if constants or (cheap and all(kind is not None for kind in kinds)):
            copied[id(node)] = constants
            positions.add(i)
    return positions


def _constant_kind(value: ir.Value, copied: dict[int, bool]) -> bool | None:
    """True: of constants; False: of graph inputs by cheap ops; None: the work of a node."""
    if constant(value) is not None:
        return True
    producer = value.producer()
    return False if producer is None else copied.get(id(producer))


def _stages(nodes: Sequence[ir.Node], devices: Sequence[str], copied: set[int], first: str) -> dict[int, int]:
    stage_of: dict[int, int] = {}  # id(node) -> stage
    stages = {}
    for i, node in enumerate(nodes):
        if i in copied:
            continue
        makers = (value.producer() for value in node.inputs if value is not None)
        stage = max((stage_of.get(id(maker), 0) for maker in makers if maker is not None), default=0)
        stage += (devices[i] == first) != (stage % 2 == 0)
        stage_of[id(node)] = stages[i] = stage
    return stages


def _copy_to_readers(nodes: Sequence[ir.Node], copied: set[int], members: list[set[int]], home: dict[int, int]) -> None:
    """Put each copied node into all parts that read it; one that nobody reads stays in the first."""
    index = {id(node): i for i, node in enumerate(nodes)}
    for i in sorted(copied, reverse=True):
        readers = [index[id(use.node)] for value in nodes[i].outputs for use in value.uses()]
        into = [part for part, held in enumerate(members) if any(r in held for r in readers)]
        for part in into or [0]:
            members[part].add(i)


def _demand_one_cut(module: Module, cuts: dict[str, _Cut]) -> None:
    plans = {
        key: [(d, sorted(cut.nodes[i].name or "" for i in m)) for d, m in zip(cut.devices, cut.members, strict=True)]
        for key, cut in cuts.items()
    }
    first_key, first = next(iter(plans.items()))
    for key, plan in plans.items():
        if plan != first:
            fail(
                "E0504",
                f"buckets `{first_key}` and `{key}` of `{module.name}` are not cut at the same ops",
                help="place ops before `bucket`, so that every bucket gets the same devices",
            )


def _boundary_names(module: Module, cuts: dict[str, _Cut]) -> dict[str, str]:
    """Value -> its name as a graph input and output; readable, and the same in every bucket."""
    cut = next(iter(cuts.values()))
    taken = {value.name for model in module.graphs.values() for value in _values(model.graph)}
    names: dict[str, str] = {}
    for value in cut.crossing():
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
        yield from node.outputs


def _extract(model: ir.Model, cut: _Cut, part: int, names: dict[str, str]) -> ir.Model:
    """The stretch `part` of `model` as a model of its own; boundary values become inputs and outputs."""
    whole = [value.name or "" for value in cut.crossing()]
    made = model.clone()
    graph = made.graph
    kept = [node for i, node in enumerate(graph) if i in cut.members[part]]
    held = {id(node) for node in kept}
    owned = {id(node) for i, node in enumerate(graph) if cut.home.get(i) == part}
    values = {value.name: value for value in _values(graph)}
    incoming, outgoing = [], []
    for name in whole:
        value = values[name]
        if id(value.producer()) in owned:
            outgoing.append(value)
        elif any(id(use.node) in held for use in value.uses()):
            incoming.append(_lead_in(value, held, names[name]))
    outputs = [v for v in graph.outputs if _belongs(v, owned, part)]
    outgoing = [value for value in outgoing if not any(value is output for output in outputs)]
    for value in outgoing:
        value.name = names[value.name or ""]
    _replace(graph, kept, incoming, [*outputs, *outgoing])
    return made


def _belongs(output: ir.Value, owned: set[int], part: int) -> bool:
    producer = output.producer()
    return part == 0 if producer is None else id(producer) in owned


def _lead_in(value: ir.Value, held: set[int], name: str) -> ir.Value:
    entry = ir.Value(name=name, type=value.type, shape=value.shape)
    for use in list(value.uses()):
        if id(use.node) in held:
            use.node.replace_input_with(use.idx, entry)
    return entry


def _replace(graph: ir.Graph, kept: list[ir.Node], incoming: list[ir.Value], outputs: list[ir.Value]) -> None:
    graph.outputs.clear()
    keep = {id(node) for node in kept}
    for node in reversed([node for node in graph if id(node) not in keep]):
        graph.remove(node, safe=True)
    graph.outputs.extend(outputs)
    inputs = [v for v in graph.inputs if v.uses() or v.is_graph_output()]
    graph.inputs.clear()
    graph.inputs.extend([*incoming, *inputs])
    drop_unused_initializers(graph)
