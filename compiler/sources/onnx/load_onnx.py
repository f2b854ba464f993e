"""An ONNX file to a module at level `semantic`: opset 24, shapes inferred, every node named, weights lazy.

Weights in external files stay there and are read in rows. Weights inside the model file are in memory once the file is
parsed, which is what protobuf's own limit of 2 GiB bounds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
from google.protobuf.message import DecodeError

from ...diagnostics.diagnostic import fail
from ...ir.domains import OWN_DOMAIN
from ...ir.levels import Level
from ...ir.module import MAIN, Module, drop_unused_initializers
from ...ir.ops.find_op import find_op
from ...ir.weights import SourceFile, Weight, from_array, from_file, unpack
from ..hf.config_file import pointer_hint
from .canonical import canonical, infer
from .given_shapes import give_shapes
from .inline_functions import inline_functions
from .inline_weights import skeleton
from .raise_opset import upgrade
from .refusals import (
    all_graphs,
    refuse_bad_places,
    refuse_bad_text,
    refuse_foreign,
    refuse_loose_values,
    refuse_maps,
    refuse_random,
    refuse_shapeless,
)
from .unlisted_ops import set_aside, take_back

_LARGEST = (1 << 31) - 1  # what protobuf can parse
_LARGEST_SKELETON = 256 << 20  # bytes of a file whose weights lie elsewhere
_LONGEST_REASON = 160


def load_onnx(
    name: str,
    file: Path,
    context: int,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    as_written: bool = False,
) -> Module:
    """The graph in `file` under the plan's name for it; `context` matters to decoders only.

    `shapes`: of inputs, where the file leaves dimensions open; E0378 where they do not fit it. `as_written`: not in
    canonical form, as what is told apart there is what somebody wants to look at.
    """
    proto = _parse(file)
    give_shapes(proto, shapes or {}, file)
    refuse_shapeless(proto, file)
    set_aside(proto)
    refuse_foreign(proto, file)
    refuse_random(proto, file)
    refuse_loose_values(proto, file)
    with _damage_named(file):
        model = _graph(proto, file)
        model = upgrade(model, file)
        if take_back(model):
            infer(model)
        _tidy(model)
        if not as_written:
            canonical(model)
    model.graph.name = name
    return Module(name, {MAIN: model}, Level.SEMANTIC, None, file, context)


def name_nodes(model: ir.Model) -> None:
    """Name unnamed nodes `<OpType>_<n>`, n counting those of the type in order; make names that repeat unique."""
    nodes = list(model.graph.all_nodes())
    taken = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    counts: dict[str, int] = {}
    for node in nodes:
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        stem = node.name or node.op_type
        number = counts.get(stem, 1 if node.name else 0)
        while f"{stem}_{number}" in taken:
            number += 1
        counts[stem] = number + 1
        node.name = f"{stem}_{number}"
        taken.add(node.name)
        seen.add(node.name)


def _parse(file: Path) -> onnx.ModelProto:
    try:
        size = file.stat().st_size
        if size > _LARGEST:
            message = f"`{file}` is {size / 2**30:.1f} GiB, beyond the 2 GiB that protobuf can hold"
            fail("E0371", message, help="save the model with its weights as external data")
        raw = skeleton(file) or file.read_bytes()
    except OSError as problem:
        fail("E0370", f"cannot read `{file}`: {str(problem.strerror).lower()}")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(raw)
    except DecodeError:
        fail("E0371", f"`{file}` is not an ONNX model, or was cut: it does not parse", help=pointer_hint(raw))
    if not proto.graph.output:
        fail("E0371", f"`{file}` is not an ONNX model: it has no graph with outputs")
    refuse_bad_text(proto, file)
    refuse_bad_places(proto, file)
    refuse_maps(proto, file)
    _one_domain_name(proto)
    _open_unknown_dimensions(proto)
    _each_output_once(proto)
    _outputs_as_inputs(proto)
    return proto


def _one_domain_name(proto: onnx.ModelProto) -> None:
    """ONNX's own domain has two names, empty and `ai.onnx`; everything after reads the empty one."""
    nodes = [node for graph in all_graphs(proto) for node in graph.node]
    for entry in (*proto.opset_import, *nodes, *(e for f in proto.functions for e in (*f.opset_import, *f.node))):
        if entry.domain == "ai.onnx":
            entry.domain = ""


def _each_output_once(proto: onnx.ModelProto) -> None:
    """An output that is listed twice is one value under one name: nobody can ask for the second."""
    named = {value.name: value for value in reversed(proto.graph.output)}
    if len(named) < len(proto.graph.output):
        once = [value for value in proto.graph.output if named.get(value.name) is value]
        del proto.graph.output[:]
        proto.graph.output.extend(once)


def _outputs_as_inputs(proto: onnx.ModelProto) -> None:
    """An output that is an input has its type, whatever it states itself: the two are one value."""
    inputs = {value.name: value for value in proto.graph.input}
    for value in proto.graph.output:
        if value.name in inputs:
            value.type.CopyFrom(inputs[value.name].type)


def _open_unknown_dimensions(proto: onnx.ModelProto) -> None:
    """Some exporters write an open dimension as -1 or `?`; ONNX leaves it without a value.

    A name that is none would make dimensions equal that are not.
    """
    for graph in all_graphs(proto):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_value < 0 or (dim.HasField("dim_param") and not any(map(str.isalpha, dim.dim_param))):
                    dim.Clear()


def _graph(proto: onnx.ModelProto, file: Path) -> ir.Model:
    """As IR: weights lazy, functions inlined but those of own ops, nodes sorted and named, constants lifted."""
    model = ir.from_proto(proto)
    _attach_external(model, file)
    inline_functions(model, file, _is_own)
    model.graph.sort()
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    name_nodes(model)  # before anything is said about a node, and by the order the user sees
    return model


def _is_own(function: ir.Function) -> bool:
    """Whether a function is the body of an installed own op: the op stays. Any other is what its body computes."""
    definition = find_op(function.name) if function.domain == OWN_DOMAIN else None
    return definition is not None and definition.same_body(function)


def _tidy(model: ir.Model) -> None:
    """What the upgrade put in: constants and nodes without names; and opset imports that nothing uses."""
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    drop_unused_initializers(model.graph)
    used = {node.domain for node in model.graph.all_nodes()} | {""}
    for domain in [domain for domain in model.opset_imports if domain not in used]:
        del model.opset_imports[domain]
    name_nodes(model)


@contextmanager
def _damage_named(file: Path) -> Iterator[None]:
    """A graph that contradicts itself makes the libraries raise almost anything: E0375 with their first line.

    What onnx-ir logs on the way quotes the file's names as they are, and is said by the error.
    """
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError, ir.serde.SerdeError) as problem:
        root: BaseException = problem
        while root.__cause__ is not None:
            root = root.__cause__
        first = (str(root).splitlines() or ["it contradicts itself"])[0][:_LONGEST_REASON]
        fail("E0375", f"`{file}` is not a valid ONNX model: {first[:1].lower() + first[1:].rstrip('.')}")
    finally:
        logger.setLevel(level)


def external_files(file: Path) -> list[Path]:
    """The files beside an ONNX file that hold its weights; none of a file so large that it holds them itself."""
    try:
        if file.stat().st_size > _LARGEST_SKELETON:
            return []
        proto = onnx.load(file, load_external_data=False)
    except (OSError, DecodeError):
        return []
    tensors = [tensor for graph in all_graphs(proto) for tensor in graph.initializer]
    tensors += [
        one.t for graph in all_graphs(proto) for node in graph.node for one in node.attribute if one.HasField("t")
    ]
    places = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return [file.parent / place for place in sorted(places) if (file.parent / place).is_file()]


def _attach_external(model: ir.Model, file: Path) -> None:
    """Replace external tensors by lazy weights, checked to lie whole within files below the model's folder."""
    files: dict[Path, SourceFile] = {}
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _external(value.const_value, file, files)
    for node in model.graph.all_nodes():
        for key, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                node.attributes[key] = ir.AttrTensor(key, _external(attribute.value, file, files))


def _external(tensor: ir.ExternalTensor, file: Path, files: dict[Path, SourceFile]) -> Weight:
    place = str(tensor.location)
    posix, windows = PurePosixPath(place), PureWindowsPath(place)
    if not place or posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in windows.parts:
        fail("E0372", f"tensor `{tensor.name}` in `{file}` points at `{place}`, outside the model's folder")
    path = file.parent / place
    if not path.is_file():
        fail("E0372", f"tensor `{tensor.name}` of `{file}` is stored in `{path}`, which does not exist")
    dims = [int(dim) for dim in tensor.shape.numpy()]
    needed, offset = tensor.nbytes, tensor.offset or 0
    if tensor.length is not None and tensor.length != needed:
        stated = f"{tensor.length} bytes for {tensor.dtype.name.lower()}{dims}, which takes {needed}"
        fail("E0372", f"tensor `{tensor.name}` in `{file}` is stated with {stated}")
    if offset < 0 or offset + needed > path.stat().st_size:
        fail("E0372", f"`{path}` is cut short: tensor `{tensor.name}` ends beyond it")
    source = files.setdefault(path, SourceFile(path))
    name = tensor.name or ""
    if math.prod(dims[1:]) * tensor.dtype.bitwidth % 8 == 0:
        return from_file(name, source, offset, tensor.dtype, dims)
    # rows of int4 that share a byte cannot be read one by one
    return from_array(
        name, unpack(bytes(source.read(offset, needed)), tensor.dtype, tensor.size).reshape(dims), path.name
    )
