"""Samples of a plan, compared with the graph they are for before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from ...diagnostics.diagnostic import Diagnostic, PlanError
from ...files import npz
from ...ir.samples import Samples, misfits


def check_samples(graph: ir.Graph, files: Sequence[Path]) -> Samples:
    """The calls in `files`; E0379 for each name, type and shape that is not the graph's, all of them at once."""
    problems: list[Diagnostic] = []
    counts: list[int] = []
    for file in files:
        try:
            given = npz.headers(file)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            problems.append(Diagnostic("E0379", f"the sample `{file}` cannot be read: {reason}"))
            continue
        except ValueError as error:
            help = "write it with `numpy.savez(file, **inputs)`"
            problems.append(Diagnostic("E0379", f"`{file}` is no sample: {error}", help=help))
            continue
        wrong, count = misfits(graph.inputs, given)
        counts.append(count)
        problems += [Diagnostic("E0379", f"`{file}` does not fit: {told}", help=help) for _, told, help in wrong]
    if problems:
        raise PlanError(*problems)
    return Samples(tuple(files), tuple(counts), frozenset(value.name or "" for value in graph.inputs))
