"""What a search varies: `-D name=[a, b]` of a sweep, each value one that `-D name=a` could give.

-D block=[32, 64]  ->  the axis `block` with the values `32` and `64`, as written
-D ctx=512         ->  no axis: the same value at every point

Without a list the plan's own `tune(…)` lets are the axes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..compiler.diagnostics.diagnostic import Diagnostic, Label, PlanError
from . import ast
from .declared import collect
from .diagnostic_collector import DiagnosticCollector
from .lets import Lets
from .loader import load
from .parser import parse_value
from .printer import show


def read_axes(
    path: Path, defines: Iterable[str], with_tuned: bool = False
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """(axes by name, the definitions that hold at every point); PlanError with every mistake in them.

    A `let` that is a list itself is swept by a list of lists; one list is its value. `with_tuned`: the plan's own
    `tune(…)` lets are axes beside the lists, too.
    """
    report = DiagnosticCollector()
    loaded = load(path, report)
    declared = collect(loaded, report)
    lets = Lets(report, declared.lets, lost=loaded.lost_names("let"))
    axes: dict[str, tuple[str, ...]] = {}
    fixed: list[str] = []
    found: list[Diagnostic] = []
    for define in defines:
        name, _, written = (part.strip() for part in define.partition("="))
        values = _swept(name, written, lets, f"-D {define}", found)
        if values is None:
            fixed.append(define)
            continue
        if name in axes:
            found.append(_twice(name, "is swept twice"))
        axes[name] = values
        for value in values:
            lets.override([f"{name}={value}"], loaded.sources)
    both = dict.fromkeys(name for name in map(_name, fixed) if name in axes)
    found += [_twice(name, "has a list to sweep over, and a value beside it") for name in both]
    lets.override(fixed, loaded.sources)
    if (with_tuned or not axes) and not found:
        open_ = {name: tune for name, tune in lets.tuned.items() if name not in lets.overrides}
        axes |= {name: tuple(map(show, tune.values)) for name, tune in open_.items()}
        found += [] if axes else _lists(fixed, lets)
    found += [one for one in report.diagnostics if one.severity == "error"]
    if found:
        raise PlanError(*dict.fromkeys(found), sources=loaded.sources)
    return axes, fixed


def _twice(name: str, what: str) -> Diagnostic:
    return Diagnostic("E0983", f"`{name}` {what}", help=f"write one list: `-D {name}=[…]`")


def _name(define: str) -> str:
    return define.partition("=")[0].strip()


def _swept(name: str, written: str, lets: Lets, file: str, found: list[Diagnostic]) -> tuple[str, ...] | None:
    """The values of a list; None for what is no list, or is the value of a `let` that holds lists."""
    try:
        value = parse_value(written, file)
    except PlanError:
        return None  # a string without quotes, or what `-D` itself says is wrong
    if not isinstance(value, ast.ListLiteral):
        return None
    own = lets.origin_value(name)
    if isinstance(own, ast.ListLiteral) and not all(isinstance(item, ast.ListLiteral) for item in value.items):
        return None
    values = tuple(dict.fromkeys(_text(item, own) for item in value.items))
    if not values:
        help = f"give it values, e.g. `-D {name}=[32, 64]`"
        found.append(Diagnostic("E0983", f"`-D {name}=[]` sweeps over nothing", Label(value.span), help=help))
    return values


def _lists(fixed: Iterable[str], lets: Lets) -> list[Diagnostic]:
    """E0983 where a list was given that is the whole value of its `let`: somebody meant to sweep over it."""
    for define in fixed:
        name, _, written = (part.strip() for part in define.partition("="))
        own = lets.origin_value(name)
        if isinstance(own, ast.ListLiteral):
            message = f"`{name}` is a list itself, so `{written}` is one value of it: nothing is swept"
            help = f"give a list of lists: `-D {name}=[{written}, …]`"
            return [Diagnostic("E0983", message, help=help)]
    return []


def _text(item: ast.Value, own: ast.Value | None) -> str:
    """A value as `-D` takes it: a string stands there without quotes."""
    return item.value if isinstance(item, ast.String) and isinstance(own, ast.String) else show(item)
