"""Uses that the table lacks, run on the emulator: the cases of the grid at other shapes, and any other op alone.

A linear that would take minutes is run in parts: with all its tokens and inputs on the first of its outputs, and with
all outputs at one token, at fewer inputs if that is still too long. Docs: docs/conformance.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import onnx_ir as ir

from ....compiler.emit.conformance.legality import Legality
from ....compiler.emit.conformance.local_table import LocalTable
from ....compiler.emit.conformance.measure import UNENDED, Case
from ....compiler.emit.conformance.one_op import alone, numbers_for
from ....compiler.emit.conformance.op_class import Shape, Use
from ....compiler.emit.conformance.proof import Trial
from ....compiler.emit.conformance.table import RIGHT, Row
from ....compiler.emit.part import Part
from ..htp.chip import Chip
from ..lower.builder import WeightStore
from ..lower.elementwise import BINARY, UNARY
from ..lower.lower_graphs import lower, lowerings
from . import one_op_graphs as floats
from . import one_op_graphs_integers as integers
from .cost import LINEARS, seconds
from .legality import legality, local_table
from .measure import Runner
from .one_op_graphs import GraphAndFeeds

LONG = 60.0  # seconds that one trial may take; a longer one is run in parts
_SLICE = 8192  # outputs of the part with all tokens and inputs
_READ = 14336  # outputs up to which a linear's result is what another linear reads
_MOST = 160_000_000  # weights of one trial: the oracle holds them as float32
_FEW = 256  # inputs of the part with all outputs, where all inputs take too long


def _integers(make: Callable[..., GraphAndFeeds]) -> Callable[..., GraphAndFeeds]:
    return lambda **shape: integers.integers(make(**shape))


_MAKERS: Mapping[str, Callable[..., GraphAndFeeds]] = {
    "matmul": floats.matmul,
    "matmul_nbits": floats.nbits,
    "u16.linear": lambda **shape: _integer_linear("uint16", **shape),
    "u8.linear": lambda **shape: _integer_linear("uint8", **shape),
    "attention": floats.attention,
    "rotary": floats.rotary,
    "u16.rotary": _integers(floats.rotary),
    "u16.attention": lambda **shape: _attention(**shape),
    "embedding": floats.embedding,
    "u16.embedding": _integers(floats.embedding),
}


def _elementwise(use: Use) -> Callable[..., GraphAndFeeds] | None:
    """The grid's maker of an op whose shape is its rank and its size.

    The node's own axes would not do: alone, between inputs and an output of the graph, HTP computes Mul of
    [1,128,3072] wrong, which in a model, behind linears, is right.
    """
    if dict(use.shape).keys() != {"rank", "elements"}:
        return None
    kind = use.lowering.rpartition(".")[2]
    maker = floats.swish if kind == "swish" else None
    if kind in UNARY or kind in BINARY:
        maker = partial(floats.unary if kind in UNARY else floats.binary, kind)
    return _integers(maker) if maker is not None and use.lowering.startswith("u16.") else maker


@dataclass
class HtpProver:
    """Runs uses of some parts on the emulator for one chip."""

    chip: Chip
    parts: Iterable[Part]
    least_rows: int = 1  # what linears on integers are fed at least, as the parts are lowered
    runner: Runner = field(init=False)
    _nodes: dict[Use, ir.Node] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.runner = Runner(self.chip)

    @property
    def engine(self) -> str:
        """What runs them."""
        return f"the HTP emulator for v{self.chip.arch}"

    @property
    def local(self) -> LocalTable:
        """Where rows are kept."""
        return local_table(self.chip.arch)

    def legality(self) -> Legality:
        """The judge by both tables as they are now."""
        return legality(self.chip.arch)

    def trials(self, use: Use) -> list[Trial]:
        """One run at the use's own shape; of a linear that takes too long several; none if it has no case."""
        make = self._make(use)
        if make is None:
            return []
        whole = seconds(use.lowering, use.shape)
        if use.lowering not in LINEARS or (whole <= LONG and _weights(use) <= _MOST):
            return [Trial(Case(use.lowering, use.shape, make), whole)]
        return [_part(use, shape, text) for shape, text in _parts(use)]

    def run(self, trial: Trial) -> Row:
        """Compile, run, compare. What is not right is run again in a new worker: nothing that ran before may count."""
        row = self.runner.one(trial.case)
        if row.verdict not in (RIGHT, UNENDED):
            self.runner.close()
            row = self.runner.one(trial.case)
        return row

    def _make(self, use: Use) -> Callable[[], GraphAndFeeds] | None:
        maker = _MAKERS.get(use.lowering) or _elementwise(use)
        if maker is not None:
            return partial(maker, **dict(use.shape)) if _becomes(use, maker) else None
        node = self._node(use)
        if node is None or (made := _alone(use, node)) is None or not _is(use, made):
            return None
        return partial(_again, use, node)

    def _node(self, use: Use) -> ir.Node | None:
        if self._nodes is None:
            store, self._nodes = WeightStore(), {}
            for part in self.parts:
                for name, lowering in lowerings(part.graphs, store, self.least_rows):
                    lowering.visit()
                    named = {node.name: node for node in part.graphs[name].graph}
                    self._nodes.update((one, named[one.node]) for one in lowering.uses if one.node in named)
        return self._nodes.get(use)


def _integer_linear(activations: str, **shape: Any) -> GraphAndFeeds:
    """A linear that another one reads; that of a head, whose result leaves the graph in a model too, alone."""
    return integers.linear(**shape, activations=activations, read=shape["n"] <= _READ)


def _attention(**shape: Any) -> GraphAndFeeds:
    return integers.attention(**{name: value for name, value in shape.items() if name not in ("cache", "mask")})


def _part(use: Use, shape: dict[str, Any], text: str) -> Trial:
    cells: Shape = tuple(sorted(shape.items()))
    return Trial(Case(use.lowering, cells, partial(_MAKERS[use.lowering], **shape)), seconds(use.lowering, cells), text)


def _parts(use: Use) -> Iterable[tuple[dict[str, Any], str]]:
    """Shapes between whose numbers the use lies, and what each is of it."""
    shape = dict(use.shape)
    tokens, k, n = (int(shape[name]) for name in ("tokens", "k", "n"))
    yield {**shape, "n": min(n, _SLICE)}, f"the first {min(n, _SLICE)} of {n} outputs"
    whole = {**shape, "tokens": 1}
    if k * n <= _MOST and seconds(use.lowering, tuple(whole.items())) <= LONG:
        yield whole, f"all outputs at 1 token, for {tokens}" if tokens > 1 else "whole"
    else:
        yield {**whole, "k": _FEW}, f"all outputs at 1 token and {_FEW} inputs, for {tokens} and {k}"


def _weights(use: Use) -> int:
    shape = dict(use.shape)
    return int(shape["k"]) * int(shape["n"])


def _becomes(use: Use, maker: Callable[..., GraphAndFeeds]) -> bool:
    """Whether the maker takes this shape: a use may have words that the grid never had."""
    try:
        made = maker(**_small(use))
    except (TypeError, ValueError):
        return False
    return _is(Use(use.lowering, tuple(sorted(_small(use).items())), use.node), made)


def _small(use: Use) -> dict[str, Any]:
    """The shape with what costs time made small: enough to see which use the case becomes."""
    shape: dict[str, Any] = dict(use.shape)
    if use.lowering in LINEARS:
        shape |= {"n": min(int(shape["n"]), 16), "tokens": 1}
    if use.lowering.endswith("embedding"):
        shape |= {"vocab": min(int(shape["vocab"]), 16), "tokens": 1}
    return shape


def _alone(use: Use, node: ir.Node) -> GraphAndFeeds | None:
    """The node of a use alone, on integers where the use is."""
    model, bits = alone(node), use.lowering.partition(".")[0]
    if model is None:
        return None
    made = model, numbers_for(model)
    return integers.integers(made, f"uint{bits[1:]}") if bits in ("u8", "u16") else made


def _again(use: Use, node: ir.Node) -> GraphAndFeeds:
    made = _alone(use, node)
    if made is None:
        raise ValueError(f"`{node.name}` cannot be run alone")
    return made


def _is(use: Use, made: GraphAndFeeds) -> bool:
    """Whether the graph is lowered to this use."""
    lowered = lower({"case": made[0]}, WeightStore())["case"]
    return any((one.lowering, one.shape) == (use.lowering, use.shape) for one in lowered.uses)
