"""Inputs of one part of a model: what flows there when the whole model runs.

A part's own inputs are values inside the model, whose sizes hang on each other and whose integers are places or sizes:
random ones seldom fit.
"""

from __future__ import annotations

import onnx_ir as ir

from ..ir.module import MAIN, Module
from ..oracle import oracle
from ..oracle.compare import Feeds
from ..oracle.probes import Probes
from .detached import tapped
from .trials import trials

Called = tuple[str, Feeds]  # the kind of numbers that the whole model was called with, and the part's inputs


def whole_feeds(module: Module, part: ir.Model) -> list[Called]:
    """The inputs of `part` in each trial of the main graph of `module`; none where the part is that, or a bucket's."""
    model = module.graphs.get(MAIN)
    names = [value.name or "" for value in part.graph.inputs]
    if model is None or part is model or not names:
        return []
    sources = {name: source(model, name) for name in names}
    if not all(sources.values()):
        return []
    tried, _ = trials(Probes(model, samples=module.samples), module.name)
    inputs = {value.name for value in model.graph.inputs}
    opened = tapped(model, [value for value in sources.values() if value and value not in inputs])
    found: list[Called] = []
    for trial in tried:
        held = {**trial.feeds, **oracle.run(opened, trial.feeds)}
        found.append((trial.kind, {name: held[value or ""] for name, value in sources.items()}))
    return found


def source(model: ir.Model, name: str) -> str | None:
    """The value of the whole graph that a part knows as `name`: its own name, or the op that makes it."""
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    if any(value.name == name for value in values):
        return name
    for node in model.graph:
        read = [value for value in node.outputs if value.uses() or value.is_graph_output()]
        if node.name == name and len(read) == 1:
            return read[0].name
        for index, value in enumerate(read):
            if name == f"{node.name}.{index}":
                return value.name
    return None
