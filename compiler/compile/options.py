"""How to compile, as opposed to what: nothing here changes the bundle's bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..plan.plan import Deploy, Plan

Progress = Callable[[str], None]


@dataclass(frozen=True)
class CompileOptions:
    """How to compile, as opposed to what: nothing here changes the bundle's bytes."""

    jobs: int = 1
    print_after: tuple[str, ...] = ()
    time_passes: bool = False
    verify_each: bool = False
    explain_skips: bool = False
    profiling: bool = False  # measure what is only told, too
    memory: int | None = None  # bytes that the compile may take, by its estimate; None: not asked
    prove: bool = True  # run what no conformance table holds; off: it is refused
    actions: bool = False  # run its actions in processes first, also where `jobs` is 1
    keep_going: bool = False  # of its actions, run what does not need one that failed
    on: str | None = None  # the scheduler that runs its actions (`dask://host:port`); None: this machine
    store: str | None = None  # where workers elsewhere leave and find results; None: the cache, which they share
    # the key that the files of a deploy line are kept under in the cache for later compiles; None: none are kept
    emission_key: Callable[[Plan, Deploy], str] | None = None
    # what lowering a deploy line apart from its compiles said of them (`Target.lower`); None: nothing is known
    lowered: Callable[[Plan, Deploy], list[dict[str, Any]]] | None = None
    # returns when actions that run meanwhile have left what a model needs from them at a stage: its weights' solutions,
    # its lowered graphs, its files; None: nothing runs meanwhile
    ready: Callable[[str, str], None] | None = None
    progress: Progress = lambda _text: None
