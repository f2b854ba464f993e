"""What a plain graph takes and gives: the types that its ONNX file states, whatever its engines compute in.

    given, in the graph's types -> the engine's types -> parts -> the engine's types -> outputs, in the graph's types

A value that the other type does not hold is an error (`value_types.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..bundle.manifest import Manifest
from ..diagnostics.diagnostic import EngineError, fail
from ..diagnostics.nearest import nearest_help
from .decoder_inputs import as_float
from .kv_cache import numpy_dtype
from .value_types import Unfit, converted

Spec = Mapping[str, Any]
Arrays = Mapping[str, np.ndarray]
_CLIP = "clip it to the range of that type, or deploy the model `as ort`"


def graph_inputs(manifest: Manifest, name: str, bucket: Mapping[str, Any]) -> list[Spec]:
    """What the model's parts read and none of them makes, and what it gives as it stands, in its types and order.

    Shapes are the bucket's; `engine` is the type that the part reads, where it is another.
    """
    graphs = [manifest.parts[part]["graphs"][bucket["name"]] for part in bucket["parts"]]
    made = {spec["name"] for graph in graphs for spec in graph["outputs"]} - _passed_on(graphs)
    read = {spec["name"]: spec for graph in graphs for spec in graph["inputs"] if spec["name"] not in made}
    stated = {spec["name"]: spec for spec in manifest.model(name).get("inputs", ())}
    given_back = {spec["name"] for spec in manifest.model(name).get("outputs", ())}
    read |= {one: spec for one, spec in stated.items() if one in given_back - read.keys()}
    order = [*(one for one in stated if one in read), *(one for one in read if one not in stated)]
    return [_in_the_graphs_type(read[one], stated.get(one)) for one in order]


def graph_outputs(manifest: Manifest, name: str, bucket: Mapping[str, Any]) -> list[Spec]:
    """What the graph gives, in its types and order; of an older bundle what its parts make and none of them reads."""
    stated = manifest.model(name).get("outputs")
    if stated is not None:
        return stated
    graphs = [manifest.parts[part]["graphs"][bucket["name"]] for part in bucket["parts"]]
    read = {spec["name"] for graph in graphs for spec in graph["inputs"]} - _passed_on(graphs)
    return [spec for graph in graphs for spec in graph["outputs"] if spec["name"] not in read]


def _in_the_graphs_type(read: Spec, stated: Spec | None) -> Spec:
    if stated is None or stated["dtype"] == read["dtype"]:
        return read
    return {**read, "dtype": stated["dtype"], "engine": read["dtype"]}


def _passed_on(graphs: Sequence[Mapping[str, Any]]) -> set[str]:
    """Inputs that are outputs of the same part as they stand."""
    names = [[{spec["name"] for spec in graph[key]} for key in ("inputs", "outputs")] for graph in graphs]
    return set[str]().union(*(read & made for read, made in names))


def entering(manifest: Manifest, name: str, bucket: Mapping[str, Any], given: Arrays) -> dict[str, np.ndarray]:
    """What is given, in the graph's types; E0923 for what is missing, unknown, of another shape or does not fit."""
    specs = {spec["name"]: spec for spec in graph_inputs(manifest, name, bucket)}
    unread = {spec["name"]: spec for spec in manifest.model(name).get("inputs", ()) if spec["name"] not in specs}
    unknown = [one for one in given if one not in specs and one not in unread]
    for one, spec in specs.items():
        if one not in given:
            help = f"`{unknown[0]}` is given, and is no input" if unknown else None
            fail("E0923", f"model `{name}` reads `{one}` ({described(spec)}), which is not given", help=help)
    if unknown:
        listed = ", ".join(f"`{spec['name']}` {described(spec)}" for spec in specs.values())
        help = nearest_help(unknown[0], [*specs, *unread], "input") or f"it reads {listed or 'none'}"
        fail("E0923", f"model `{name}` has no input `{unknown[0]}`", help=help)
    return {one: _entered(name, spec, given[one]) for one, spec in (specs | unread).items() if one in given}


def _entered(model: str, spec: Spec, given: np.ndarray) -> np.ndarray:
    if spec.get("sequence"):
        help = "run the .onnx file of the bundle in ONNX Runtime itself"
        fail(
            "E0923", f"input `{spec['name']}` of model `{model}` is a sequence of tensors, and arrays go in", help=help
        )
    array, what = np.asarray(given), f"`{spec['name']}` of model `{model}`"
    check_shape(what, array, spec)
    try:
        made = converted(array, spec["dtype"])
    except Unfit as problem:
        fail("E0923", f"{what} is {spec['dtype']}, and the {array.dtype.name} array given {problem}")
    if "engine" in spec and spec.get("quantization") is None:
        try:
            converted(made, spec["engine"])
        except Unfit as problem:
            fail("E0923", f"{what} enters its engine as {spec['engine']}, and the array given {problem}", help=_CLIP)
    return made


def check_shape(what: str, array: np.ndarray, spec: Spec) -> None:
    """E0923 where `array`, which people call `what`, has another shape than the entry of the tensor says."""
    pairs = zip(array.shape, spec["shape"], strict=False)
    if array.ndim != len(spec["shape"]) or any(isinstance(size, int) and have != size for have, size in pairs):
        have = "x".join(str(size) for size in array.shape) or "no axes"
        fail("E0923", f"{what} has the shape {_sizes(spec) or 'of one number'}, the array given {have}")


def leaving(spec: Spec, made: np.ndarray, stored: Spec) -> np.ndarray:
    """An output in the graph's type; `stored`: the entry of the part that made it. E0916 if an integer does not fit."""
    if isinstance(made, list):  # a sequence
        return made
    if spec is stored or spec["dtype"] == stored["dtype"]:  # as it comes: a file may leave out the type of an output
        return made
    plain = as_float(made, stored) if stored.get("quantization") is not None else made
    if numpy_dtype(spec["dtype"]).kind == "f" and plain.dtype.kind != "O":
        return plain.astype(numpy_dtype(spec["dtype"]))  # beyond its range is infinite, as it is in the graph
    try:
        return converted(plain, spec["dtype"])
    except Unfit as problem:
        message = f"output `{spec['name']}` is {spec['dtype']} in the graph, and what the engine made {problem}"
        fail("E0916", message, help="`edgec verify` tells which part is wrong", kind=EngineError)


def described(spec: Spec) -> str:
    """Type and sizes, for people: `float32 Nx8`."""
    return f"{spec['dtype']} {_sizes(spec)}".rstrip()


def _sizes(spec: Spec) -> str:
    return "x".join(str(size or "?") for size in spec["shape"])
