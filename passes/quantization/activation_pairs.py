"""Put static integer ranges on a decoder's activations (`compiler/ir/activation_encodings.py` has the form).

    uint16   every float tensor that an op computes, the past K/V, the logits
    uint8    what a linear reads and what it gives, for the linears that the line selects; all else is uint16
    kv       new and past keys and values: uint8, or else int16 around zero

HTP multiplies 8-bit activations to 8-bit results only, so a linear has the same type on both sides. The right side of a
product of activations it cuts to 8 bits where that is uint16, and takes whole where it is int16: so keys and values
are int16. What only moves values shares the range of what it moves. Behind a shadow's Clip the range is that Clip's,
and what runs on the CPU beside it stays float. cos, sin and the mask are exact to 16 bits and carry no pair. Inside
Attention (scores, softmax) ONNX has no place for a pair: the range of the scores is kept on the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ...compiler.calibration import windows as calibrate
from ...compiler.diagnostics.diagnostic import PlanError, fail
from ...compiler.ir import kv_names
from ...compiler.ir.activation_encodings import MOVES, Encoding, insert, root, strip
from ...compiler.ir.annotations import ACTIVATIONS, KV_TYPE, RANGES, ROTATED, SCORES, SHADOW, WIDE
from ...compiler.ir.graph_queries import constant_nodes
from ...compiler.ir.linears import linears
from ...compiler.ir.module import Module, constant
from ...compiler.ir.weights import numbers
from ...compiler.pipeline.demands import Demands
from ...compiler.pipeline.pass_interface import Scope

if TYPE_CHECKING:
    from .activation_ranges import ObservedValues

_COARSE = 0.05  # a step of 16 bits in parts of the mean magnitude: from there on its rounding can be seen


def wanted(module: Module) -> bool:
    """Whether an earlier line has asked for integer activations."""
    return RANGES.get(module.main.graph) is not None


def refuse_shadows(module: Module, scope: Scope) -> None:
    """E0436 where linears have shadows: their weights may not change any more."""
    if any(SHADOW.get(node) is not None for node in module.nodes()):
        fail(
            "E0436",
            f"weights of `{module.name}` are quantised behind `shadow`, which has ranges and rows of them as they are",
            scope.origin,
            help="put every `quantize` line in front of `shadow`",
        )


def mark(module: Module, activations: str, ranges: str, scope: Scope) -> None:
    """Note what a line wants: of the linears it selects, and, unless it is fp16, of the whole decoder."""
    graph = module.main.graph
    if activations != "fp16":
        RANGES.set(graph, ranges)
    for linear in linears(module):
        if linear.kind == "matmul" and scope.selects(linear.name):
            ACTIVATIONS.set(linear.node, activations)
            WIDE.remove(linear.node)


def apply(module: Module, before: dict[str, Encoding], scope: Scope) -> int:
    """Measure ranges and put the pairs in; the number of pairs that are not as `before` had them."""
    graph = module.main.graph
    if scope.dry:
        return _stand_ins(graph, module)
    found = observe(module, scope)
    _tell_outliers(module, found.seen, scope)
    for node, held in found.scores.items():
        SCORES.set(node, held.range("minmax", 16))
    made = _Pairs(graph, found.seen, found.method, found.narrow, _searched(module, found, scope))
    made.put(list(found.seen), found.cache)
    graph.sort()
    return sum(before.get(name) != encoding for name, encoding in made.done.items()) + len(before.keys() - made.done)


@dataclass(frozen=True)
class Observed:
    """What calibration text showed: of every value that has a range, and of Attentions' scores."""

    ids: np.ndarray
    seen: dict[ir.Value, ObservedValues]
    scores: dict[ir.Node, ObservedValues]
    method: str
    cache: str
    narrow: set[ir.Node]  # linears in 8 bits
    both: set[ir.Node]  # those and the ones in 16, where there are any in 8


def observe(module: Module, scope: Scope) -> Observed:
    """Measure what the activations hold, those of linears in 8 bits with a histogram; E0454 without a text."""
    graph = module.main.graph
    if scope.calibration is None:
        fail(
            "E0454",
            "`activations` needs a `calibration` block, but the plan has none",
            scope.origin,
            help='add `calibration { text = "calib/*.txt" }`, or leave activations as fp16',
        )
    narrow = {x.node for x in linears(module) if ACTIVATIONS.get(x.node) == "uint8"}
    values = _activations(graph)
    method, cache = RANGES.get(graph) or "auto", KV_TYPE.get(graph) or "int16"
    # of linears with 16 bits too: which they are may depend on what is counted (`widen.py`), and is not to change it
    both = {x.node for x in linears(module) if ACTIVATIONS.get(x.node) in ("uint8", "uint16")} if narrow else narrow
    narrow_values = {root(v) for node in both for v in (node.inputs[0], node.outputs[0]) if v is not None}
    narrow_values &= set(values) | {root(value) for value in _cached(graph)}
    if cache == "uint8" or narrow:  # counted with 8-bit linears anyway: a cache asked for later measures nothing anew
        narrow_values |= {root(value) for value in _cached(graph)}
    histograms = set(values) if method in ("percentile", "mse") else narrow_values
    if problem := Demands(torch="activations").without_torch(scope.origin):
        raise PlanError(problem)
    from .activation_ranges import ranges

    ids = calibrate.windows(scope.calibration, module)
    seen, scores = ranges(module, ids, values, histograms, scope.progress)
    return Observed(ids, seen, scores, method, cache, narrow, both)


def sides(module: Module, found: Observed, scope: Scope) -> dict[ir.Node, tuple[Encoding, Encoding]]:
    """How each linear in 8 bits is rounded on both sides; with `learned` as training would begin."""
    searched = _clipped(module, found, scope) if found.method in ("clip", "learned") else {}
    made = _Pairs(module.main.graph, found.seen, found.method, found.narrow, searched)
    return {
        node: (made.encoding(root(x), "uint8", searched.get(x)), made.encoding(y, "uint8"))
        for node in found.narrow
        if (x := node.inputs[0]) is not None and (y := node.outputs[0]) in found.seen and root(x) in found.seen
    }


def _tell_outliers(module: Module, seen: Mapping[ir.Value, ObservedValues], scope: Scope) -> None:
    """A note where outliers leave 16 bits too few steps for all other values of a tensor, if `rotate` has not been."""
    coarse = {value: part for value, one in seen.items() if (part := one.coarseness()) > _COARSE}
    if not coarse or "residual" in (ROTATED.get(module.main) or ()):
        return
    worst = max(coarse, key=lambda value: coarse[value])
    node, one = worst.producer(), seen[worst]
    scope.note(
        f"outliers make 16 bits coarse for {len(coarse)} tensor{'s' * (len(coarse) > 1)}, most of all for "
        f"`{'' if node is None else node.name}` (largest value {max(-one.low, one.high):.4g}, mean "
        f"{one.size / one.number:.2g}): `rotate (channels = outliers, values = false)` in front spreads them"
    )


def _searched(module: Module, found: Observed, scope: Scope) -> dict[ir.Value, tuple[float, float]]:
    """What `clip` and `learned` choose for linears in 8 bits: the ranges of what they read; learned: of outputs too."""
    ordered = _ordered(module, found)
    if found.method not in ("clip", "learned") or not ordered:
        return {}
    clipped = _clipped(module, found, scope)
    if found.method == "clip":
        return clipped
    from .learned_ranges import learned_ranges

    made = (node.outputs[0] for node in ordered if not _is_clipped(node))
    outputs = {value: found.seen[value].range("mse", 8) for value in made}
    return learned_ranges(module, found.ids, ordered, clipped | outputs, scope.progress)


def _ordered(module: Module, found: Observed) -> list[ir.Node]:
    """The linears in 8 bits whose inputs have no range of a shadow, in running order."""
    return [node for node in module.main.graph if node in found.narrow and not _is_clip(node.inputs[0])]


def _clipped(module: Module, found: Observed, scope: Scope) -> dict[ir.Value, tuple[float, float]]:
    from .clip_ranges import clip_ranges

    read = [node for node in module.main.graph if node in found.both and not _is_clip(node.inputs[0])]
    made = clip_ranges(module, found.ids, read, scope.progress)
    return {value: made[value] for node in _ordered(module, found) if (value := node.inputs[0]) is not None}


def _is_clip(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and SHADOW.get(producer) == "clip"


def _stand_ins(graph: ir.Graph, module: Module) -> int:
    """Put the pairs in with stand-in ranges: the types are those of a compile, and nothing is measured."""
    values = _activations(graph)
    narrow = {x.node for x in linears(module) if ACTIVATIONS.get(x.node) == "uint8"}
    for node in module.nodes("Attention"):
        SCORES.set(node, (-1.0, 1.0))
    made = _Pairs(graph, None, RANGES.get(graph) or "auto", narrow)
    made.put(values, KV_TYPE.get(graph) or "int16")
    graph.sort()
    return len(made.done)


def _activations(graph: ir.Graph) -> list[ir.Value]:
    """The activations that get a range of their own, each the first output of its node."""
    constants = constant_nodes(graph)
    return [node.outputs[0] for node in graph if node.outputs and node not in constants and _has_range(node)]


def _has_range(node: ir.Node) -> bool:
    if node.op_type in MOVES or (node.name or "").startswith("rotary."):
        return False
    if SHADOW.get(node) == "cpu" and all(SHADOW.get(use.node) == "cpu" for use in node.outputs[0].uses()):
        return False  # only the last value of a shadow crosses to the NPU
    if _is_clipped(node):
        return False
    return node.outputs[0].dtype == ir.DataType.FLOAT


def _is_clipped(node: ir.Node) -> bool:
    """Whether a shadow's Clip stands behind a linear: that has the range of its output."""
    uses = node.outputs[0].uses()
    return node.op_type == "MatMul" and bool(uses) and all(SHADOW.get(use.node) == "clip" for use in uses)


def _cached(graph: ir.Graph) -> list[ir.Value]:
    return [value for value in graph.outputs if kv_names.is_cache(value.name)]


class _Pairs:
    """Puts pairs into one graph."""

    def __init__(
        self,
        graph: ir.Graph,
        seen: dict[ir.Value, ObservedValues] | None,
        method: str,
        narrow: set[ir.Node],
        searched: Mapping[ir.Value, tuple[float, float]] | None = None,
    ) -> None:
        self.graph, self.seen, self.method, self.narrow = graph, seen, method, narrow
        self.searched = searched or {}
        self.done: dict[str, Encoding] = {}

    def put(self, values: list[ir.Value], cache: str) -> None:
        """The cache first, then what linears read, then the rest: a later pair comes nearer to the producer."""
        held = {value.name or "": (value, root(value)) for value in _cached(self.graph)}
        for name, (value, source) in held.items():
            encoding, base = self.encoding(source, cache), name.removesuffix("_out")
            self._insert(value, f"{base}_new", encoding)
            past = next(v for v in self.graph.inputs if v.name == f"{base}_in")
            self._insert(past, f"{base}_in", encoding)
        for value in values:
            node = value.producer()
            if node is None:
                continue
            base = node.name or ""
            if SHADOW.get(node) == "clip":
                self._insert(value, base, _clip_range(node))
                continue
            readers = [r for r in self._linear_readers(value) if r in self.narrow]
            if readers:
                moved = {r.inputs[0] for r in readers}
                for at, x in enumerate(v for v in moved if v is not None):
                    own = self.encoding(value, "uint8", self.searched.get(x))
                    self._insert(x, base if not at else f"{base}.{at}", own, readers)
            narrow = node in self.narrow
            own = self.searched.get(value) if narrow else None
            self._insert(value, base, self.encoding(value, "uint8" if narrow else "uint16", own))

    def _linear_readers(self, value: ir.Value) -> list[ir.Node]:
        """Linears that read `value`, moved about or not."""
        found = []
        for use in value.uses():
            if use.node.op_type in MOVES and use.idx == 0:
                found += self._linear_readers(use.node.outputs[0])
            elif use.node.op_type == "MatMul" and use.idx == 0:
                found.append(use.node)
        return found

    def encoding(self, value: ir.Value, dtype: str, given: tuple[float, float] | None = None) -> Encoding:
        """That of a value in so many bits: over the ends `given`, else over those of the method."""
        if given is not None:
            return Encoding.over(*given, dtype)
        low, high = self.seen[value].range(self.method, 8 if dtype == "uint8" else 16) if self.seen else (-1.0, 1.0)
        return Encoding.over(low, high, dtype)

    def _insert(self, value: ir.Value, base: str, encoding: Encoding, readers: list[ir.Node] | None = None) -> None:
        insert(self.graph, value, base, encoding, readers)
        self.done[f"{base}.act{encoding.bits}.quantize"] = encoding


def _clip_range(node: ir.Node) -> Encoding:
    """The integers that a shadow's Clip leaves as they are."""
    low, high = (constant(end) for end in node.inputs[1:3])
    if low is None or high is None:
        raise ValueError(f"`{node.name}` has no constant ends")
    return Encoding.over(float(numbers(low)), float(numbers(high)), "uint8")


def take_out(module: Module) -> dict[str, Encoding]:
    """The pairs there were, taken out so that weights and ranges can be made anew."""
    return strip(module.main.graph)
