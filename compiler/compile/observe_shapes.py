"""Shapes that no inference tells, of values behind an If or a Loop, as they are when the graph runs in the oracle.

A value that goes from part to part stands in the manifest with its axes. A size that differs between calls, or hangs on
sizes that are open, stays open; one that an input of other numbers changes is refused where it is read (E0923).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from ..diagnostics.diagnostic import EdgecError
from ..ir.bodies import bodies
from ..oracle.probes import Probes
from ..proof.detached import tapped
from ..proof.trials import trials

if TYPE_CHECKING:
    from ..ir.module import Module


def observe_shapes(module: Module) -> None:
    """Give every value of a graph with bodies that lacks them its type and axes; nothing where it is not run."""
    for model in module.graphs.values():
        made = [value for node in model.graph for value in node.outputs if value.uses() or value.is_graph_output()]
        unknown = [value for value in made if value.shape is None and value.name]
        if not unknown or not any(map(bodies, model.graph)):
            continue
        probes = Probes(tapped(model, [value.name or "" for value in unknown]), samples=module.samples)
        try:
            tried, _ = trials(probes, module.name, ())
        except EdgecError:
            continue
        for value in unknown:
            arrays = [trial.expected[value.name or ""] for trial in tried]
            value.dtype = value.dtype or ir.DataType.from_numpy(arrays[0].dtype)
            if len({array.ndim for array in arrays}) == 1:
                sizes = zip(*(array.shape for array in arrays), strict=True)
                fixed = not probes.open
                value.shape = ir.Shape([dims[0] if fixed and len(set(dims)) == 1 else None for dims in sizes])
