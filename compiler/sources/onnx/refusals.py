"""What an ONNX file may not contain, found while the nodes are still the user's own and can be named to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path

import onnx
import onnx.defs

from ...diagnostics.diagnostic import fail
from ...diagnostics.wording import some_of
from ...ir.domains import RUNTIME_DOMAINS

_NAMED = 5  # nodes that are named
_SHOWN = 40  # letters of what a file states
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


def refuse_bad_text(proto: onnx.ModelProto, file: Path) -> None:
    """Names that are not UTF-8, which protobuf hands out as bytes."""
    nodes = [node for function in proto.functions for node in function.node]
    texts: list[str | bytes] = []
    for graph in all_graphs(proto):
        nodes += graph.node
        texts += [value.name for value in (*graph.input, *graph.output, *graph.initializer)]
    for node in nodes:
        texts += [node.name, node.op_type, node.domain, *node.input, *node.output, *(a.name for a in node.attribute)]
    if any(isinstance(text, bytes) for text in texts):
        fail("E0371", f"`{file}` is not an ONNX model, or was damaged: a name in it is not UTF-8 text")


def refuse_bad_places(proto: onnx.ModelProto, file: Path) -> None:
    """Weights in other files at places that are no numbers, or before the file begins."""
    for tensor in (one for graph in all_graphs(proto) for one in graph.initializer):
        for entry in tensor.external_data:
            if entry.key in ("offset", "length") and not (entry.value.isascii() and entry.value.isdigit()):
                stated = f"`{entry.value[:_SHOWN]}` as its {entry.key}, which is no number of bytes"
                fail("E0372", f"tensor `{tensor.name}` in `{file}` states {stated}")


def refuse_maps(proto: onnx.ModelProto, file: Path) -> None:
    """Inputs and outputs that are dictionaries, as converters of classical learners write them."""
    for value in (*proto.graph.input, *proto.graph.output):
        kind = value.type
        while kind.WhichOneof("value") in ("sequence_type", "optional_type"):
            kind = kind.sequence_type.elem_type if kind.HasField("sequence_type") else kind.optional_type.elem_type
        if kind.WhichOneof("value") == "map_type":
            help = (
                "export it without its ZipMap (skl2onnx: `options = {'zipmap': False}`): the scores are a tensor then"
            )
            fail("E0376", f"`{value.name}` of `{file}` is a dictionary, not a tensor", help=help)


def refuse_shapeless(proto: onnx.ModelProto, file: Path) -> None:
    """Inputs of which not even the number of axes is known, all at once."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    lacking = [
        value.name
        for value in proto.graph.input
        if value.type.HasField("tensor_type")
        and not value.type.tensor_type.HasField("shape")
        and value.name not in constants
    ]
    if lacking:
        listed, asked = ", ".join(f"`{name}`" for name in lacking), ", ".join(f"{name}: [sizes]" for name in lacking)
        which = f"input {listed}" if len(lacking) == 1 else f"inputs {listed}"
        help = f"say how many axes there are and what they are: `shapes = {{ {asked} }}` in the model's line"
        fail("E0378", f"`{file}` states no shape for its {which}", help=help)


def refuse_foreign(proto: onnx.ModelProto, file: Path) -> None:
    """Training parts, sparse tensors, ops that are neither ONNX's nor functions of the model."""
    if proto.training_info:
        fail("E0376", f"`{file}` is a training model (`training_info`)")
    version = {entry.domain: entry.version for entry in proto.opset_import}.get("", 0)
    functions = {(function.domain, function.name) for function in proto.functions}
    nodes = [node for function in proto.functions for node in function.node]
    for graph in all_graphs(proto):
        if graph.sparse_initializer:
            fail("E0376", f"`{file}` has the sparse initializer `{graph.sparse_initializer[0].values.name}`")
        nodes += graph.node
    for node in nodes:
        if (node.domain, node.op_type) in functions or node.domain in RUNTIME_DOMAINS:
            continue  # whether ONNX Runtime has such an op, it says itself
        if node.domain:
            kind = f"{node.domain}::{node.op_type}, an op of a domain that is not ONNX's"
            fail(
                "E0374", f"{_label(node)} in `{file}` is a {kind}", help="export the model with standard ONNX ops only"
            )
        if version in range(1, onnx.defs.onnx_opset_version() + 1) and not onnx.defs.has(node.op_type, version):
            fail("E0374", f"{_label(node)} in `{file}` is a {node.op_type}, which ONNX opset {version} does not have")


def refuse_random(proto: onnx.ModelProto, file: Path) -> None:
    """Nodes that draw numbers anew in each call: no engine's output can be held against another's."""
    nodes = [node for graph in all_graphs(proto) for node in graph.node]
    nodes += [node for function in proto.functions for node in function.node]
    drawn = [f"{_label(node)} ({node.op_type})" for node in nodes if not node.domain and node.op_type in _RANDOM]
    if drawn:
        listed = some_of(drawn, _NAMED)
        verb = "draws" if len(drawn) == 1 else "draw"
        help = "export it with the noise as an input of the graph; what draws for training is gone in evaluation mode"
        fail("E0376", f"{listed} of `{file}` {verb} random numbers, which no engine can be compared on", help=help)


def refuse_loose_values(proto: onnx.ModelProto, file: Path) -> None:
    """Every value that is read is made, and made once."""
    _scope(proto.graph, frozenset(), file)
    for function in proto.functions:
        _values(function.node, list(function.input), function.output, frozenset(), file)


def _scope(graph: onnx.GraphProto, outer: Set[str], file: Path) -> None:
    """Recursion is bounded: protobuf parses at most 100 levels."""
    constants = {tensor.name for tensor in graph.initializer}
    outputs = [value.name for value in graph.output]
    _values(graph.node, [value.name for value in graph.input], outputs, outer | constants, file)


def _values(
    nodes: Sequence[onnx.NodeProto], inputs: list[str], outputs: Iterable[str], outer: Set[str], file: Path
) -> None:
    given = inputs + [name for node in nodes for name in node.output if name]
    twice = [name for name, count in Counter(given).items() if count > 1]
    if twice:
        fail("E0375", f"`{file}` is not a valid ONNX model: `{twice[0]}` is made more than once")
    known = outer | set(given)
    for node in nodes:
        for name in node.input:
            if name and name not in known:
                fail("E0375", f"`{file}` is not a valid ONNX model: {_label(node)} reads `{name}`, which nothing makes")
        for inner in _direct_graphs(node):
            _scope(inner, known, file)
    for name in outputs:
        if name not in known:
            fail("E0375", f"`{file}` is not a valid ONNX model: nothing makes its output `{name}`")


def _label(node: onnx.NodeProto) -> str:
    return f"node `{node.name}`" if node.name else f"the node that computes `{', '.join(node.output)}`"


def _direct_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of an If, Loop or Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_graphs(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The main graph and all graphs inside nodes, those of functions included, at any depth."""
    found = [proto.graph, *(graph for f in proto.functions for node in f.node for graph in _direct_graphs(node))]
    for graph in found:  # grows as it goes
        found += [inner for node in graph.node for inner in _direct_graphs(node)]
    return found
