"""A `.mnn` file around a part of a context binary: one Plugin op of type `QNN`, which MNN's CPU back end hands to QNN.

    Input …  ->  Plugin("QNN", path = the binary, a graph for each shape of the inputs)  ->  outputs

For an MNN that is built with `MNN_QNN` and `MNN_WITH_PLUGIN` (its wheel is not). The op picks the graph by the shapes
of its inputs; it reads and writes QNN's tensors in place, so MNN's tensors have their types (`DT_HALF` for float16).
Written with the field numbers of MNN 3.6's schema.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers

from ...compiler.files.full_disk import writes
from .htp.context_binary import GraphSpec, TensorSpec

OP_NAME, PLUGIN_TYPE = "qnn/plugin/op", "QNN"
_INPUT, _PLUGIN = 34, 256  # OpType
_INPUT_PARAMETER, _PLUGIN_PARAMETER = 21, 30  # OpParameter
_TYPES = {"float32": 1, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "uint16": 17, "float16": 19}  # DataType
_NCHW = 0
_NOT_THE_DEFAULT = -1  # a field is left out where it has the value that is named as its default


def write_wrapper(
    path: Path, binary: Path, graphs: Sequence[tuple[str, GraphSpec]], others: Sequence[str]
) -> str | None:
    """Write the wrapper of a part beside its binary; why not, where MNN cannot hold a tensor of it.

    `graphs`: the part's own by their names in the binary, a bucket each; `others`: the binary's further graphs, since
    the op names every graph of a binary.
    """
    first = graphs[0][1]
    for spec in (*first.inputs, *first.outputs):
        if spec.dtype not in _TYPES:
            return f"MNN has no tensors of {spec.dtype}, which `{spec.name}` is"
    orders = [_ordered(graph, first) for _, graph in graphs]
    with writes(path):
        path.write_bytes(_net(binary, [name for name, _ in graphs], orders, others))
    return None


def _ordered(graph: GraphSpec, like: GraphSpec) -> GraphSpec:
    """A bucket's tensors in the order of the first one's."""
    sides = []
    for own, other in ((graph.inputs, like.inputs), (graph.outputs, like.outputs)):
        found = {spec.name: spec for spec in own}
        sides.append(tuple(found[spec.name] for spec in other))
    return GraphSpec(*sides)


def attributes(
    binary: Path, names: Sequence[str], graphs: Sequence[GraphSpec], others: Sequence[str]
) -> list[tuple[str, Any]]:
    """What the op says: a text, a number, a list of either, or a tensor's type and shape."""
    size = binary.stat().st_size
    found: list[tuple[str, Any]] = [
        ("allInputShape", [dim for graph in graphs for spec in graph.inputs for dim in spec.shape]),
        ("allGraphName", [*names, *others]),
        ("dump_intermediate_outputs", 0),
        ("path", binary.name),
        ("offset", _halves(0)),
        ("size", _halves(size)),
        ("inputs", [spec.name for spec in graphs[0].inputs]),
        ("outputs", [spec.name for spec in graphs[0].outputs]),
    ]
    for shape, graph in enumerate(graphs):
        found += [(f"o_{shape}_{at}", spec) for at, spec in enumerate(graph.outputs)]
    return found


def _halves(number: int) -> list[int]:
    """The low and the high 32 bits, with a sign."""
    return [(half ^ 1 << 31) - (1 << 31) for half in (number & 0xFFFFFFFF, number >> 32)]


def _net(binary: Path, names: Sequence[str], graphs: Sequence[GraphSpec], others: Sequence[str]) -> bytes:
    made = flatbuffers.Builder(4096)
    inputs, outputs = graphs[0].inputs, graphs[0].outputs
    ops = []
    for at, spec in enumerate(inputs):
        parameter = _table(made, {0: _ints(made, spec.shape), 1: (_TYPES[spec.dtype], 1), 2: (_NCHW, 2)}, small={2})
        ops.append(_op(made, spec.name, (_INPUT, _INPUT_PARAMETER), parameter, [], [at]))
    plugin = {
        0: made.CreateString(PLUGIN_TYPE),
        1: _tables(made, [_attribute(made, *row) for row in attributes(binary, names, graphs, others)]),
    }
    reads, makes = range(len(inputs)), range(len(inputs), len(inputs) + len(outputs))
    ops.append(_op(made, OP_NAME, (_PLUGIN, _PLUGIN_PARAMETER), _table(made, plugin), reads, makes))
    made_here = [spec.name for spec in outputs]
    fields = {
        3: _tables(made, ops),
        4: _texts(made, made_here),
        7: _texts(made, [*(spec.name for spec in inputs), *made_here, OP_NAME]),
    }
    made.Finish(_table(made, fields))
    return bytes(made.Output())


def _op(
    made: flatbuffers.Builder,
    name: str,
    kinds: tuple[int, int],
    parameter: int,
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> int:
    fields = {
        0: _ints(made, inputs), 2: parameter, 3: made.CreateString(name), 4: _ints(made, outputs),
        1: (kinds[1], 0), 5: (kinds[0], 0), 6: (_NCHW, 1),
    }  # fmt: skip
    return _table(made, fields, small={1, 6})


def _attribute(made: flatbuffers.Builder, key: str, value: Any) -> int:
    fields: dict[int, Any] = {3: made.CreateString(key)}
    if isinstance(value, str):
        fields[0] = made.CreateString(value)
    elif isinstance(value, int):
        fields[1] = (value, 0)
    elif isinstance(value, TensorSpec):
        blob = {0: _ints(made, value.shape), 1: (_NCHW, _NOT_THE_DEFAULT), 2: (_TYPES[value.dtype], _NOT_THE_DEFAULT)}
        fields[6] = _table(made, blob, small={1})
    else:
        texts = bool(value) and isinstance(value[0], str)
        fields[7] = _table(made, {0 if texts else 1: _texts(made, value) if texts else _ints(made, value)})
    return _table(made, fields)


def _table(made: flatbuffers.Builder, fields: Mapping[int, int | tuple[int, int]], small: Collection[int] = ()) -> int:
    """A table: offsets by field number, and scalars as (value, the schema's default), in one byte where `small`."""
    made.StartObject(max(fields) + 1)
    for number, value in fields.items():
        if isinstance(value, int):
            made.PrependUOffsetTRelativeSlot(number, value, 0)
        elif number in small:
            made.PrependInt8Slot(number, *value)
        else:
            made.PrependInt32Slot(number, *value)
    return made.EndObject()


def _ints(made: flatbuffers.Builder, values: Sequence[int]) -> int:
    made.StartVector(4, len(values), 4)
    for value in reversed(values):
        made.PrependInt32(value)
    return made.EndVector()


def _texts(made: flatbuffers.Builder, values: Sequence[str]) -> int:
    return _tables(made, [made.CreateString(value) for value in values])


def _tables(made: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    made.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        made.PrependUOffsetTRelative(offset)
    return made.EndVector()
