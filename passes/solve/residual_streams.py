"""The residual streams of all calibration windows, one segment of the decoder at a time.

    reference  x_l  : what the module gives with the weights to be solved left in float
    solved     x'_l : what it gives with the segments before this one solved

Held: both streams at one boundary [windows, length, H] (one, as long as nothing was solved), the constants of one
segment, and what one batch makes in it.
A linear sees the error of all that was solved before it, in its own segment too: that is what it compensates. A run
whose answers the cache has computes no stream at all: it is moved when a segment is met that has to be solved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import torch

from ...compiler.calibration.cores import in_order
from ...compiler.calibration.torch_graph import (
    Constants,
    Env,
    Segment,
    device,
    linear_nodes,
    plain_inputs,
    run,
    segments,
)
from ...compiler.diagnostics.diagnostic import EngineError, fail
from ...compiler.ir.linears import Linear, linears
from ...compiler.ir.module import Module, constant
from ...compiler.ir.weights import Weight, transpose
from . import solution_cache as store

BATCH = 8  # windows
_RUN = 4  # windows that a core runs at once where it only looks: what that makes in an MLP is four times their inputs
_SOLVING = 3.0  # what solving a linear takes beside running it


@dataclass(frozen=True)
class Moments:
    """Of one linear's inputs x' (solved) and x (reference), n rows: sums over all windows."""

    hessian: torch.Tensor  # 2/n sum x'^T x'       [K, K]
    drift: torch.Tensor | None  # 2/n sum (x - x')^T x'   [K, K]
    magnitude: torch.Tensor  # 1/n sum |x'|        [K]
    count: int  # n


@dataclass
class ResidualStreams:
    """Walks the segments of a decoder; `floats` are the weights to be solved, by linear.

    With `halves` attention and MLP are segments of their own: less is computed again for each group of linears.
    """

    module: Module
    floats: Mapping[str, Weight]
    halves: bool = False
    on: torch.device = field(default_factory=device)

    def __post_init__(self) -> None:
        self.graph = self.module.main.graph
        self.refresh()
        self.segments: list[Segment] = segments(self.graph, self.halves)
        self.shared: Env = {}
        self.stream: ir.Value | None = None
        self.reference: list[torch.Tensor] = []
        self.solved: list[torch.Tensor] = []
        self._waiting: list[Callable[[], None]] = []

    @property
    def same(self) -> bool:
        """Whether nothing was solved so far: both streams are one."""
        return self.solved is self.reference

    def later(self, step: Callable[[], None]) -> None:
        """Start or advance when `catch_up` is called, if it ever is."""
        self._waiting.append(step)

    def catch_up(self) -> None:
        """Move the streams to where the walk is."""
        for step in self._waiting:
            step()
        self._waiting.clear()

    def content(self, segment: Segment, formats: Mapping[str, str]) -> str:
        """What tells a segment from another: its constants, and what is to be solved, in float, with its formats."""
        parts = []
        for node in segment.nodes:
            linear = self.linears.get(node.name or "")
            if linear is not None and linear.name in self.floats:
                parts += [linear.name, store.digest(self.floats[linear.name]), formats[linear.name]]
                continue
            weights = [linear.weight()] if linear is not None else [constant(v) for v in node.inputs]
            parts += [node.name or "", *(store.digest(w) for w in weights if w is not None)]
        return store.key(*parts)

    def refresh(self) -> None:
        """Look at the linears again, after weights were exchanged."""
        self.linears: dict[str, Linear] = {linear.name: linear for linear in linears(self.module)}

    def start(self, ids: np.ndarray, tables: Mapping[str, Weight]) -> None:
        """Embed the windows; `tables` are embeddings already solved."""
        segment = self.segments[0]
        outputs = [value for value in segment.outputs if not value.is_graph_output()]
        self.stream = self.entry()
        both = [(self.reference, self.constants({}))]
        self.solved = self.reference
        if tables:
            self.solved, after = [], self.constants({})
            after.given.update({self.linears[name].value: table for name, table in tables.items()})
            both.append((self.solved, after))
        for at in range(0, len(ids), BATCH):
            env = plain_inputs(self.module, ids[at : at + BATCH], self.on)
            for kept, constants in both:
                made = dict(zip(outputs, run(segment.nodes, env, constants, outputs), strict=True))
                kept.append(made.pop(self.stream))
                self.shared = {**{v: x for v, x in env.items() if v.name != "input_ids"}, **made}

    def entry(self) -> ir.Value:
        """The residual stream that leaves the embedding."""
        return next(value for value in self.segments[0].outputs if self._is_stream(value))

    def _is_stream(self, value: ir.Value) -> bool:
        """The residual stream is [B, S, H]; cos and sin are as wide as half a head."""
        arch = self.module.arch
        return arch is not None and value.shape is not None and value.shape[-1] == arch.hidden

    def constants(self, weights: Mapping[str, torch.Tensor]) -> Constants:
        """The module's constants with the float weights in place, and `weights` over them."""
        made = Constants({self.linears[name].value: tensor for name, tensor in weights.items()}, self.on)
        for name, weight in self.floats.items():
            value = self.linears[name].value
            if value not in made.given and value.const_value is None:  # quantised by an earlier line
                made.given[value] = weight if self.linears[name].rows_are_outputs else transpose(weight)
        return made

    def oriented(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """A float weight [N, K] as the graph's value holds it."""
        return weight if self.linears[name].rows_are_outputs else weight.T

    def groups(self, segment: Segment) -> list[tuple[ir.Value, list[str]]]:
        """The segment's linears that are to be solved, those of one input together, in running order."""
        found: dict[ir.Value, list[str]] = {}
        for node in linear_nodes(segment):
            if node.name in self.floats and node.inputs[0] is not None:
                found.setdefault(node.inputs[0], []).append(node.name or "")
        return list(found.items())

    def sizes(self) -> list[float]:
        """What each segment behind the embedding takes, for a clock: all of it is run, and part of it is solved."""
        return [
            float(
                sum(math.prod(self.linears[node.name or ""].shape) for node in linear_nodes(segment))
                + _SOLVING * sum(math.prod(self.floats[n].dims) for _, names in self.groups(segment) for n in names)
            )
            for segment in self.segments[1:]
        ]

    def forget(self) -> None:
        """Free the streams, which nothing reads behind the last moments."""
        self.reference, self.solved = [], []

    def moments(
        self, segment: Segment, value: ir.Value, solved: Mapping[str, torch.Tensor], drift: bool = False
    ) -> Moments:
        """Of the inputs `value`, with the segment's linears in `solved` exchanged."""
        width = value.shape[-1] if value.shape is not None else None
        if not isinstance(width, int):
            raise ValueError(f"`{value.name}` has no static width")
        before, after = self.constants({}), self.constants(solved)
        hessian = torch.zeros(width, width, device=self.on)
        moved, magnitude = torch.zeros_like(hessian) if drift else None, torch.zeros(width, device=self.on)
        count = 0

        def inputs(both: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
            x, y = both
            got = run(segment.nodes, self.env(y), after, [value])[0].flatten(0, -2)
            if moved is None or (not solved and self.same):
                return got, None
            return got, run(segment.nodes, self.env(x), before, [value])[0].flatten(0, -2) - got

        with torch.no_grad():
            for got, away in in_order(inputs, zip(_few(self.reference), _few(self.solved), strict=True)):
                hessian.addmm_(got.T, got)
                magnitude += got.abs().sum(0)
                count += len(got)
                if moved is not None and away is not None:
                    moved.addmm_(away.T, got)
        if not bool(torch.isfinite(hessian).all()):
            readers = ", ".join(f"`{use.node.name}`" for use in value.uses())
            fail("E0457", f"the calibration's activations into {readers} are not finite", kind=EngineError)
        scale = 2 / count
        return Moments(hessian.mul_(scale), None if moved is None else moved.mul_(scale), magnitude / count, count)

    def env(self, stream: torch.Tensor) -> Env:
        """What a segment reads: the graph inputs all segments share, and `stream` [1, S, H] as the residual stream."""
        if self.stream is None:
            raise ValueError("the flow has not started")
        return {**self.shared, self.stream: stream}

    def output(self, segment: Segment) -> ir.Value:
        """The residual stream (or the logits) that leaves the segment."""
        return next(value for value in segment.outputs if not value.is_graph_output() or value.name == "logits")

    def targets(self, segment: Segment) -> list[torch.Tensor]:
        """The reference stream after the segment."""
        constants, output = self.constants({}), self.output(segment)
        with torch.no_grad():
            return list(in_order(lambda x: run(segment.nodes, self.env(x), constants, [output])[0], self.reference))

    def keep_first(self, windows: int) -> None:
        """Let go of all but the first batches, which hold at least so many windows."""
        same, batches = self.same, math.ceil(windows / BATCH)
        self.reference = self.reference[:batches]
        self.solved = self.reference if same else self.solved[:batches]

    def advance(self, segment: Segment, solved: Mapping[str, torch.Tensor]) -> None:
        """Move both streams behind the segment; behind the head is nothing that anybody asks for."""
        if segment is self.segments[-1]:
            return
        output = self.output(segment)
        if solved and self.same:
            self.solved = [x.clone() for x in self.reference]
        with torch.no_grad():
            for streams, constants in self._both(solved):
                few = list(_few(streams))
                made = in_order(lambda x, held=constants: run(segment.nodes, self.env(x), held, [output])[0], few)
                for x, moved in zip(few, made, strict=True):
                    x.copy_(moved)  # in its place: new ones would lie scattered between what is freed
        self.stream = output

    def _both(self, solved: Mapping[str, torch.Tensor]) -> Iterator[tuple[list[torch.Tensor], Constants]]:
        yield self.reference, self.constants({})
        if not self.same:
            yield self.solved, self.constants(solved)


def _few(streams: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Views of at most `_RUN` windows."""
    return (part for x in streams for part in x.split(_RUN))
