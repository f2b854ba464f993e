"""The functions of an ONNX model in place of their calls, within limits: functions that call functions multiply.

A function that calls the next one twice, forty deep, is 2 kB of file and 2^40 nodes. What a model would become is
counted before anything is inlined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common

from ...diagnostics.diagnostic import fail

_DEEPEST = 100  # calls inside calls: ONNX's own limit
_WITHOUT = "export the model without local functions, or in parts"
_MOST_NODES = 100_000  # once inlined, calls counted too


def inline_functions(model: ir.Model, file: Path, stays: Callable[[ir.Function], bool]) -> None:
    """Replace every call of a function by its nodes, but of those that `stays` says yes to."""
    if model.functions:
        _refuse_too_many(model, file)
        _NumberedInline(criteria=lambda function: not stays(function))(model)


def _refuse_too_many(model: ir.Model, file: Path) -> None:
    """E0375 for functions that call themselves, E0377 for calls too deep or nodes too many."""
    called = {name: _called(model, function.all_nodes()) for name, function in model.functions.items()}
    try:
        order = list(TopologicalSorter({name: set(inner) for name, inner in called.items()}).static_order())
    except CycleError as problem:
        circle = " calls ".join(f"`{'::'.join(filter(None, name))}`" for name in problem.args[1][::-1][:4])
        fail("E0375", f"`{file}` is not a valid ONNX model: its function {circle}")
    depth, nodes = dict.fromkeys(order, 1), dict.fromkeys(order, 0)
    for name in order:
        depth[name] = 1 + max((depth[inner] for inner in called[name]), default=0)
        own = sum(1 for _ in model.functions[name].all_nodes())
        nodes[name] = own + sum(count * nodes[inner] for inner, count in called[name].items())
    main = _called(model, model.graph.all_nodes())
    if (deepest := max((depth[name] for name in main), default=0)) > _DEEPEST:
        fail(
            "E0377",
            f"`{file}` has functions that call each other {deepest} deep; edgec inlines {_DEEPEST}",
            help=_WITHOUT,
        )
    total = sum(1 for _ in model.graph.all_nodes()) + sum(count * nodes[name] for name, count in main.items())
    if total > _MOST_NODES:
        shown = f"{total:,}" if total < 10**12 else "more than 10^12"
        message = f"`{file}` becomes {shown} nodes as its functions are inlined; edgec takes {_MOST_NODES:,}"
        fail("E0377", message, help=_WITHOUT)


def _called(model: ir.Model, nodes: Iterable[ir.Node]) -> Counter[ir.OperatorIdentifier]:
    """Which functions of the model `nodes` call, and how often."""
    return Counter(name for node in nodes if (name := node.op_identifier()) in model.functions)


class _NumberedInline(common.InlinePass):
    """onnx-ir's pass with names of its own: that looks for a free one from 1 on at each call, which takes n^2 steps."""

    def __init__(self, criteria: Callable[[ir.Function], bool]) -> None:
        super().__init__(criteria)
        self._taken: Counter[str] = Counter()
        self._written: dict[ir.OperatorIdentifier, list[tuple[Any, str]]] = {}

    def _instantiate_call(self, node: ir.Node, call_site_id: str) -> Any:
        """The body is cloned under the names it has: `x`, at the second call `x_2`."""
        name = node.op_identifier()
        if name not in self._written:
            inner = list(self._functions[name])
            outputs = [(output, output.name or "val") for one in inner for output in one.outputs]
            self._written[name] = [*((one, one.name or "node") for one in inner), *outputs]
        for holder, written in self._written[name]:
            self._taken[written] += 1
            number = self._taken[written]
            holder.name = written if number == 1 else f"{written}_{number}"
        return super()._instantiate_call(node, call_site_id)
