"""Put static integer ranges on the activations of a plain graph, measured on the model's own samples.

    every float input and every float result of a selected op    uint8 or uint16, one scale per tensor
    what an op only moves                                        the scale of what it moves
    biases of convolutions and Gemm                              int32, scale = scale of the input * scale of the weight

That is the form of ONNX Runtime's static quantisation, which its engines and those of other vendors read. Calls are run
in ONNX Runtime one by one; a call's activations are held, and the ends and histograms of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ...compiler.diagnostics.diagnostic import PlanError, fail
from ...compiler.ir.activation_encodings import MOVES, Encoding, insert, strip
from ...compiler.ir.annotations import ACTIVATIONS, FLOAT_WEIGHT, RANGES
from ...compiler.ir.clone import clone_model
from ...compiler.ir.graph_queries import constant_nodes
from ...compiler.ir.linears import Linear, linears
from ...compiler.ir.module import Module, constant, drop_unused_initializers, initializer
from ...compiler.ir.weights import as_weight, from_array, numbers
from ...compiler.pipeline.demands import Demands
from ...compiler.pipeline.pass_interface import Scope

if TYPE_CHECKING:
    from .activation_ranges import ObservedValues

MOST_CALLS = 256  # of the samples
_LARGEST_BIAS = 2**31 - 1
_FEWEST = 8  # values in a call below which an observation says little


def take_out(module: Module) -> dict[str, Encoding]:
    """The pairs there were, taken out, and biases as floats again, so that ranges can be measured anew."""
    graph = module.main.graph
    if RANGES.get(graph) is None:
        return {}  # pairs of a model that was quantised elsewhere stay
    for node in list(graph):
        stored = constant(node.inputs[0]) if node.op_type == "DequantizeLinear" else None
        source = FLOAT_WEIGHT.get(stored) if stored is not None and stored.dtype == ir.DataType.INT32 else None
        if source is not None:
            bias = as_weight(source)
            node.outputs[0].replace_all_uses_with(initializer(graph, bias.name, bias))
            graph.remove(node, safe=True)
    found = strip(graph)
    drop_unused_initializers(graph)
    return found


def mark(module: Module, activations: str, ranges: str, scope: Scope) -> None:
    """Note the type that a line wants for what the ops it selects compute; `fp16` takes an earlier line's back."""
    graph = module.main.graph
    if activations != "fp16":
        RANGES.set(graph, ranges)
    for node in graph:
        if scope.selects(node.name or ""):
            ACTIVATIONS.set(node, activations)


def apply(module: Module, before: dict[str, Encoding], scope: Scope) -> int:
    """Measure ranges on the samples and put the pairs in; the number of pairs that are not as `before` had them."""
    graph = module.main.graph
    wanted = dict(_wanted(graph))
    if not wanted:
        return len(before)
    if not len(module.samples):
        fail(
            "E0454",
            f"`activations` needs inputs of `{module.name}` to be measured on, and its `model` block gives none",
            scope.origin,
            help='add `sample = "inputs.npz"` to it, or leave activations as fp16',
        )
    found = None if scope.dry else _observe(module, wanted, scope)
    method = RANGES.get(graph) or "auto"
    encodings = {
        value: Encoding.over(*((-1.0, 1.0) if found is None else _ends(found[value], method, dtype)), dtype)
        for value, dtype in wanted.items()
    }
    done: dict[str, Encoding] = {}
    read: dict[ir.Value, Encoding] = {}  # what readers see -> how its integers are read
    for value in wanted:
        node = value.producer()
        moved = node is not None and node.op_type in MOVES and node.inputs[0] in read
        encoding = read[node.inputs[0]] if node is not None and moved else encodings[value]  # type: ignore[index]
        base = (node.name if node is not None else None) or value.name or ""
        read[insert(graph, value, base, encoding, None)] = encoding
        done[f"{base}.act{encoding.bits}.quantize"] = encoding
    for linear in list(linears(module, graph)):
        _quantise_bias(graph, linear, read)
    drop_unused_initializers(graph)
    graph.sort()
    return sum(before.get(name) != encoding for name, encoding in done.items()) + len(before.keys() - done)


def _wanted(graph: ir.Graph) -> Iterator[tuple[ir.Value, str]]:
    """The float values that get a pair and its type, in the order they are made: inputs first."""
    constants = constant_nodes(graph)
    for value in graph.inputs:
        types = {ACTIVATIONS.get(use.node) for use in value.uses()} - {None, "fp16"}
        if value.dtype == ir.DataType.FLOAT and types:
            yield value, "uint16" if "uint16" in types else "uint8"
    for node in graph:
        dtype = ACTIVATIONS.get(node)
        if dtype in (None, "fp16") or node in constants:
            continue
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT and (value.uses() or value.is_graph_output()):
                yield value, dtype or "uint8"


def _ends(seen: ObservedValues, method: str, dtype: str) -> tuple[float, float]:
    bits = 8 if dtype == "uint8" else 16
    return seen.range("minmax" if seen.number < _FEWEST else method, bits)


def _observe(module: Module, wanted: dict[ir.Value, str], scope: Scope) -> dict[ir.Value, ObservedValues]:
    """What each value held over all calls; values in 8 bits are counted in a second walk."""
    if problem := Demands(torch="activations").without_torch(scope.origin):
        raise PlanError(problem)
    import torch

    from ...compiler.oracle.oracle import open_session
    from .activation_ranges import ObservedValues

    model, names = _with_outputs(module.main, wanted)
    session = open_session(model)
    inputs = {value.name: value for value in wanted if value.producer() is None}
    seen = {value: ObservedValues() for value in wanted}
    by_name = dict(zip(names, (value for value in wanted if value.producer() is not None), strict=True))
    calls = min(len(module.samples), MOST_CALLS)
    for counts in (False, True):
        for at, feeds in enumerate(module.samples.feeds(module.main.graph, MOST_CALLS)):
            scope.progress(f"activations: call {at + 1} of {calls}" + (", counted" if counts else ""))
            made = dict(zip(names, session.run(names, feeds), strict=True)) if names else {}
            arrays = {inputs[name]: x for name, x in feeds.items() if name in inputs}
            arrays |= {by_name[name]: x for name, x in made.items()}
            for value, array in arrays.items():
                tensor = torch.from_numpy(np.array(array, np.float32))
                if counts:
                    seen[value].count(tensor)
                elif tensor.numel():
                    seen[value].add(tensor)
        _demand_finite(module, seen)
    return seen


def _with_outputs(main: ir.Model, wanted: Iterable[ir.Value]) -> tuple[ir.Model, list[str]]:
    """A copy of the graph that gives out every wanted value which a node makes, and their names."""
    model = clone_model(main)
    known = {value.name: value for node in model.graph for value in node.outputs}
    names = [value.name or "" for value in wanted if value.producer() is not None]
    for name in names:
        if not known[name].is_graph_output():
            model.graph.outputs.append(known[name])
    return model, names


def _demand_finite(module: Module, seen: dict[ir.Value, ObservedValues]) -> None:
    for value, held in seen.items():
        if not (np.isfinite(held.low) and np.isfinite(held.high)):
            message = f"`{value.name}` of `{module.name}` is not finite on its `sample`: it has no range"
            fail("E0457", message, help="leave the op that makes it out with `except`, or give other samples")


def _quantise_bias(graph: ir.Graph, linear: Linear, read: dict[ir.Value, Encoding]) -> None:
    """int32 in the steps of the sums it is added to; a bias beyond them stays a float."""
    x, quant = linear.node.inputs[0], linear.quant
    bias = constant(linear.bias)
    if linear.kind not in ("conv", "gemm") or bias is None or quant is None or x not in read or quant.block is not None:
        return
    steps = read[x].scale * np.asarray(numbers(quant.scale), np.float64).reshape(-1)
    q = np.rint(np.asarray(numbers(bias), np.float64).reshape(-1) / steps)
    if np.abs(q).max(initial=0.0) > _LARGEST_BIAS:
        return
    name = f"{linear.name}.bias"
    stored = from_array(name, q.astype(np.int32))
    FLOAT_WEIGHT.set(stored, bias)
    held = initializer(graph, _free(graph, f"{name}.int32"), stored)
    scale = initializer(graph, _free(graph, f"{name}.scale"), from_array(name, steps.astype(np.float32)))
    node = ir.node("DequantizeLinear", [held, scale], {"axis": 0}, name=f"{name}.dequantize")
    made = node.outputs[0]
    made.name, made.type, made.shape = f"{name}.dequantized", ir.TensorType(ir.DataType.FLOAT), ir.Shape(q.shape)
    graph.insert_before(linear.node, node)
    linear.node.replace_input_with(2, made)


def _free(graph: ir.Graph, name: str) -> str:
    while name in graph.initializers:
        name += "_"
    return name
