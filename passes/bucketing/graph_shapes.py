"""The shapes of one bucket put into a plain graph: of the inputs that a plan names, and of what follows from them.

A dimension that has a name gets its size wherever the name stands; the rest is inferred, shapes that are computed are
folded (`sources/onnx/canonical.py`). What is left open is asked for by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ...compiler.diagnostics.diagnostic import Diagnostic, Label, PlanError
from ...compiler.diagnostics.nearest import nearest_help
from ...compiler.ir.clone import clone_model
from ...compiler.ir.module import Module
from ...compiler.pipeline.pass_interface import Scope
from ...compiler.sources.onnx.canonical import canonical

Shapes = Mapping[str, tuple[int, ...]]


def specialise_graph(main: ir.Model, shapes: Shapes, scope: Scope) -> ir.Model:
    """A copy of `main` whose inputs have `shapes`; the weights are the same objects. E0378 and E0418, all at once."""
    at = Label(scope.origin) if scope.origin is not None else None
    inputs = {value.name or "": value for value in main.graph.inputs}
    problems = [Diagnostic("E0378", why, at, help=help) for why, help in _misfits(inputs, shapes)]
    if problems:
        raise PlanError(*problems)
    sizes = _sizes(inputs, shapes)
    model = clone_model(main)
    for value in model.graph.inputs:
        value.shape = _filled(value, shapes.get(value.name or ""), sizes)
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None:
                value.shape = _filled(value, None, sizes)
    canonical(model, again=True)
    open_ = [value.name or "" for value in model.graph.inputs if not _static(value)]
    if open_:
        raise PlanError(
            *(Diagnostic("E0418", _asked(inputs[name], shapes), at, help=_help(inputs[name])) for name in open_)
        )
    made = [(node, value) for node in model.graph for value in node.outputs if value.uses() or value.is_graph_output()]
    unknown = [(node, value) for node, value in made if not _static(value)]
    if unknown:
        node, value = unknown[0]
        more = f" and {len(unknown) - 1} values behind it" if len(unknown) > 1 else ""
        message = f"`{value.name}`, made by `{node.name}` ({node.op_type}){more}, has no static shape: {value.shape}"
        help = "its size is computed from what inputs hold: it runs `as ort` without `bucket`"
        raise PlanError(Diagnostic("E0418", message, at, help=help))
    return model


def fits(module: Module, buckets: Sequence[Shapes]) -> bool:
    """Whether the graphs of `module` are those of `buckets`."""
    graphs = list(module.graphs.values())
    return len(graphs) == len(buckets) and all(
        tuple(value.shape or ()) == shapes.get(value.name or "", tuple(value.shape or ()))
        for model, shapes in zip(graphs, buckets, strict=True)
        for value in model.graph.inputs
    )


def _misfits(inputs: Mapping[str, ir.Value], shapes: Shapes) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    sizes: dict[str, tuple[int, str]] = {}
    for name, shape in shapes.items():
        value = inputs.get(name)
        if value is None:
            listed = ", ".join(f"`{known}`" for known in inputs)
            found.append(
                (f"the model has no input `{name}`", nearest_help(name, inputs, "input") or f"inputs: {listed}")
            )
            continue
        dims = list(value.shape) if value.shape is not None else [None] * len(shape)
        what = f"input `{name}` has the shape {value.shape}, which {'x'.join(map(str, shape))} does not fit"
        if len(dims) != len(shape) or any(isinstance(d, int) and d != n for d, n in zip(dims, shape, strict=True)):
            found.append((what, "sizes that the file states stay as they are; give the open ones"))
            continue
        for dim, size in zip(dims, shape, strict=True):
            word = dim.value if isinstance(dim, ir.SymbolicDim) else None
            if word is not None and sizes.setdefault(word, (size, name))[0] != size:
                found.append((f"{what}: `{word}` is {sizes[word][0]} in `{sizes[word][1]}`", "give one size to a name"))
    return found


def _sizes(inputs: Mapping[str, ir.Value], shapes: Shapes) -> dict[str, int]:
    """The size of each dimension that has a name."""
    return {
        dim.value: size
        for name, shape in shapes.items()
        for dim, size in zip(inputs[name].shape or (), shape, strict=False)
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None
    }


def _filled(value: ir.Value, given: tuple[int, ...] | None, sizes: Mapping[str, int]) -> ir.Shape | None:
    if given is not None:
        return ir.Shape(given)
    if value.shape is None:
        return None
    return ir.Shape([sizes.get(d.value or "", d) if isinstance(d, ir.SymbolicDim) else d for d in value.shape])


def _static(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.is_static()


def _asked(value: ir.Value, shapes: Shapes) -> str:
    known = ", ".join(f"`{name}`" for name in shapes) or "nothing"
    return f"input `{value.name}` has the shape {value.shape}, whose open sizes do not follow from {known}"


def _help(value: ir.Value) -> str:
    dims = ", ".join(str(dim) if isinstance(dim, int) else "1" for dim in value.shape or ())
    return f"give it too: `{value.name}: [{dims}]`, with your sizes"
