"""What a pass is: a frozen dataclass with a name, parameters as fields, levels, a tolerance, and `run`.

    @dataclass(frozen=True)
    class FoldScale(Pass):
        name = "fold_scale"
        takes = (Level.SEMANTIC,)
        tolerance = Tolerance(1e-5)

        def run(self, module: Module, scope: Scope) -> int: ...   # how many changes

Heavy imports (numpy, onnx_ir, torch) belong inside `run` or in a second module: the plan checker imports every
installed pass to learn its parameters, and must answer in a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..diagnostics.diagnostic import Diagnostic, Span
from ..ir.levels import Level
from .demands import Demands

if TYPE_CHECKING:
    from ..calibration.calibration_text import Calibration
    from ..ir.module import Module


@dataclass(frozen=True)
class Tolerance:
    """How far outputs may move: max|after - before| <= bound * max|before| per output; 0 demands equal bytes."""

    bound: float
    why: str = ""


EXACT = Tolerance(0.0)


class Core(Protocol):
    """A group of equal CPU cores of a chip."""

    @property
    def name(self) -> str:
        """As its maker calls it: `Cortex-X4`."""
        ...

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    @property
    def ghz(self) -> float:
        """Their highest clock."""
        ...


SUSTAINED = 0.5  # of the peak of a chip's memory: what estimates count with


def fast_cycles(cores: Sequence[Core]) -> float:
    """Cycles a second of all cores but the slowest kind, together: those that work is given to."""
    slowest = min(core.ghz for core in cores)
    fast = [core for core in cores if core.ghz > slowest] or cores
    return 1e9 * sum(core.count * core.ghz for core in fast)


class Chip(Protocol):
    """What a pass may know of a device: a row of the device table."""

    @property
    def name(self) -> str:
        """As plans call it."""
        ...

    @property
    def cores(self) -> Sequence[Core]:
        """Of its CPU; empty where they are not known."""
        ...

    @property
    def bandwidth_gbs(self) -> float | None:
        """Peak of its memory."""
        ...


@dataclass(frozen=True)
class Skip:
    """A node that a pass left alone, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class FiguresTable:
    """Figures a pass measured, for the report: each row begins with a node's name; `marked` is a column of each row."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: tuple[int, ...] = ()


@dataclass
class Scope:
    """What one step of a pipeline may touch, and where it says what it did.

    `on`/`except_` are the plan's globs over node names (`*` also crosses dots). `origin` is the plan's line. In a
    `dry` run weights have no numbers (`ir.weights.DryWeight`): a pass gives them formats, shapes and places, and
    neither solves nor measures.
    """

    on: tuple[str, ...] | None = None
    except_: tuple[str, ...] = ()
    origin: Span | None = None
    calibration: Calibration | None = None
    skips: list[Skip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[FiguresTable] = field(default_factory=list)
    profile: str | None = None  # what the step has measured of the model, as text that `edgec profile` writes
    progress: Callable[[str], None] = lambda _text: None
    widths: Mapping[int, int] = field(default_factory=lambda: dict.fromkeys((2, 3, 4, 8), 0))  # the target's `widths`
    integer_widths: Mapping[int, int] | None = None  # those beside integer activations, where they are others
    minimums: bool = True  # whether the target stores a float minimum per block beside the scale
    rounded: list[str] = field(default_factory=list)  # what a step rounds that the plan did not ask it to, in words
    touched: set[str] = field(default_factory=set)  # globs of `on` that matched a candidate
    dry: bool = False
    profiling: bool = False  # for `edgec profile`: measure what is only told, too
    chips: Sequence[Chip] = ()  # that the model is deployed on; none: it is on the machine that compiles it

    @property
    def on_host(self) -> bool:
        """Whether what runs fast here runs fast where the model is deployed."""
        return not self.chips

    def stored_width(self, bits: int, integers: bool = False) -> int:
        """The bits that integers of `bits` take in the bundle; `integers`: beside integer activations."""
        widths = self.integer_widths if integers and self.integer_widths is not None else self.widths
        return next((width for width in widths if width >= bits), bits)

    def selects(self, name: str) -> bool:
        """Whether `on`/`except` let this step touch the node `name`."""
        matched = [glob for glob in self.on or () if fnmatchcase(name, glob)]
        self.touched.update(matched)
        excepted = any(fnmatchcase(name, glob) for glob in self.except_)
        return not excepted and (self.on is None or bool(matched))

    def skip(self, node: Any, reason: str) -> bool:
        """Record that `node` (or its name) is left alone; returns False for `return scope.skip(...)`."""
        self.skips.append(Skip(node if isinstance(node, str) else node.name, reason))
        return False

    def note(self, text: str) -> None:
        """Something the user should read in the report: a size it costs, a decision taken."""
        self.notes.append(text)

    def table(self, table: FiguresTable) -> None:
        """Figures for the report that would be too many to read as notes."""
        self.tables.append(table)


@dataclass(frozen=True)
class Circumstances:
    """What a pass decides `auto` by: one model on one device.

    context   positions that the model's cache holds
    folder    that paths of the line are relative to
    verify    tokens of a round of speculation that the model checks, None where it checks none
    seconds   (tokens, context) -> estimated seconds of a call on the device
    read      (tokens, context) -> bytes that it reads
    tables    bytes that the engine's file holds for each graph beside the shared weights, in bytes of these
    roomy     whether the round goes through a larger bucket as well, as a tree does
    """

    context: int
    folder: Path
    origin: Span
    verify: int | None
    seconds: Callable[[int, int], float]
    read: Callable[[int, int], float]
    tables: float
    roomy: bool = False


class Pass:
    """Base of all passes; subclasses are frozen dataclasses. The docstring's first line is its help."""

    name: ClassVar[str]
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC,)
    leaves: ClassVar[Level | None] = None  # None: the level it found
    selects: ClassVar[bool] = True  # whether `on`/`except` make sense for it
    keeps_shapes: ClassVar[bool] = False  # whether weights keep their names and shapes [N, K]
    behind: ClassVar[str] = ""  # help where it comes too early: what it is for, and the line to write in front of it
    profiles: ClassVar[bool] = False  # whether it measures a profile, which `edgec profile` prints

    @classmethod
    def completed(cls, written: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters a plan wrote, with those that follow from them where they are left out."""
        return dict(written)

    @property
    def undecided(self) -> bool:
        """Whether a parameter is `auto`, for `decided` to settle before anything runs."""
        return False

    def decided(self, by: Circumstances) -> Pass:
        """This pass with nothing left open; PlanError where that cannot be."""
        return self

    @property
    def tolerance(self) -> Tolerance:
        """How far this pass, with these parameters, may move the outputs. Exact unless it says otherwise."""
        return EXACT

    def demands(self) -> Demands:
        """What a line with these parameters asks of the compile and of the target, whatever the model."""
        return Demands(static=self.leaves is not None and self.leaves >= Level.STATIC)

    @property
    def moves_cache(self) -> bool:
        """Whether K/V caches hold other numbers afterwards: outputs are then compared from an empty cache."""
        return False

    @property
    def moves_inside(self) -> bool:
        """Whether tensors inside, but for keys and logits, hold other numbers than the float model's afterwards."""
        return False

    def check(self, weights: Mapping[str, tuple[int, int]], origin: Span) -> Iterable[Diagnostic]:
        """Mistakes that the shapes [N, K] of the weights which the step selects tell, before any is read."""
        return ()

    def run(self, module: Module, scope: Scope) -> int:
        """Rewrite `module` in place; return the number of changes (0 when there is nothing left to do)."""
        raise NotImplementedError(f"pass `{self.name}` does not define run")


@dataclass(frozen=True)
class StepResult:
    """What one step of a pipeline did. `origin` is the line it came from."""

    pass_name: str
    origin: Span | None
    changes: int
    seconds: float
    skips: tuple[Skip, ...]
    notes: tuple[str, ...]
    tables: tuple[FiguresTable, ...] = ()
    error: Mapping[str, float] | None = None  # output -> relative error, when the step was verified
    profile: str | None = None
