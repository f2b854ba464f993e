"""Write a pass with onnx-graphsurgeon: the function gets a `gs.Graph` and changes it.

    @graphsurgeon_pass
    def drop_identity(graph: gs.Graph) -> int:
        "Remove Identity nodes."
        ...
        return count                      # or the changed graph, or nothing: then the graphs are compared

    @graphsurgeon_pass(tolerance=Tolerance(1e-5))
    def fold(graph: gs.Graph, scope: Scope, *, factor: float = param(2.0, doc="…")) -> int: ...

Keyword-only arguments made by `param` are the plan's parameters; a function that takes `scope` gets it, and its plan
line may carry `on` and `except`. Weights are numpy arrays, read when `tensor.values` is first asked for; those nobody
asked for stay lazy. Names, metadata and symbolic shapes come back. Works before weights are quantised only:
onnx-graphsurgeon cannot hold 4-bit tensors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, make_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, overload

from ..ir.levels import Level
from .pass_interface import EXACT, Pass, Scope, Tolerance

if TYPE_CHECKING:
    from ..ir.module import Module


@dataclass(frozen=True)
class GraphSurgeonPass(Pass):
    """Base of the classes that `graphsurgeon_pass` makes."""

    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC,)
    function: ClassVar[Callable[..., Any]]
    wants_scope: ClassVar[bool] = False
    bound: ClassVar[Tolerance] = EXACT

    @property
    def tolerance(self) -> Tolerance:
        """The bound that `@graphsurgeon_pass(tolerance=…)` was given."""
        return self.bound

    def run(self, module: Module, scope: Scope) -> int:
        """Return what the function counted, or 1 if it changed the graph without counting."""
        from .graphsurgeon_graph import rewrite

        arguments = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.wants_scope:
            arguments["scope"] = scope
        return rewrite(module, lambda graph: type(self).function(graph, **arguments), self.name, scope)


@overload
def graphsurgeon_pass(function: Callable[..., Any]) -> type[Pass]: ...
@overload
def graphsurgeon_pass(
    *, name: str | None = None, tolerance: Tolerance = EXACT
) -> Callable[[Callable[..., Any]], type[Pass]]: ...
def graphsurgeon_pass(
    function: Callable[..., Any] | None = None, *, name: str | None = None, tolerance: Tolerance = EXACT
) -> type[Pass] | Callable[[Callable[..., Any]], type[Pass]]:
    """Turn a function of a `gs.Graph` into a pass; its docstring's first line is the pass's help."""

    def make(function: Callable[..., Any]) -> type[Pass]:
        return _make(function, name or function.__name__, tolerance)

    return make if function is None else make(function)


def _make(function: Callable[..., Any], name: str, tolerance: Tolerance) -> type[Pass]:
    own = []
    given = list(inspect.signature(function).parameters.values())
    for parameter in given[1:]:
        if parameter.name == "scope":
            continue
        if parameter.kind is not parameter.KEYWORD_ONLY or not hasattr(parameter.default, "metadata"):
            raise TypeError(f"`{name}`: argument `{parameter.name}` has to be keyword-only and made by `param`")
        own.append((parameter.name, parameter.annotation, parameter.default))
    wants_scope = any(parameter.name == "scope" for parameter in given[1:])
    facts = {
        "name": name,
        "function": staticmethod(function),
        "wants_scope": wants_scope,
        "selects": wants_scope,
        "bound": tolerance,
        "__doc__": function.__doc__ or f"The pass `{name}`.",
    }
    made = make_dataclass(function.__name__, own, bases=(GraphSurgeonPass,), namespace=facts, frozen=True)
    made.__module__ = function.__module__  # where annotations are looked up, and who it belongs to
    return made
