"""What a graph is tried with: sizes of its open dimensions that it runs with, and numbers of each kind that it takes.

    sizes     found by trying in the oracle: no graph says that its kernel wants 7 pixels, or its Reshape multiples of 8
    sample    inputs that the plan gives, and their sizes
    ordinary  normal floats, indices of what is looked up, small integers
    others    indices counted from the end, integers over the range of their type, zeros, large and small floats

A kind that the oracle refuses (an integer that turns out to be a size, an index that is computed) is left out, and one
that keeps a loop of the graph running: the oracle is stopped. Integers that are known to become sizes stay small.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ..diagnostics.diagnostic import fail
from ..ir.clone import clone_model
from ..ir.graph_queries import is_tensor_of
from ..ir.module import initializer
from ..ir.onnx_runtime import onnxruntime, quiet_session
from ..ir.read_instead import take_over
from ..ir.samples import Samples
from ..ir.weights import from_array
from . import in_rows, oracle
from .compare import EDGES, ORDINARY, SAMPLE, Feeds, Sizes, dims, open_dimensions, random_feeds
from .weight_sizes import fixed_sizes

if TYPE_CHECKING:
    from ..ir.decoder_arch import DecoderArch

_SIZES = (
    4,
    2,
    3,
    5,
    8,
    1,
    16,
    7,
    32,
    64,
    6,
    10,
    12,
    20,
    24,
    40,
    48,
    80,
    96,
    100,
    128,
    160,
    224,
    256,
    512,
    1024,
    4096,
    16000,
)
_MOST = 1 << 22  # elements of an input that is tried
_LAST_DIGITS = np.array([1 - np.finfo(np.float32).eps, 1 + np.finfo(np.float32).eps], np.float32)
_SHAKES = 3
_SAMPLES = 4  # calls of a plan's samples that a graph is tried with
_NONE = Samples()
_LONGEST_REASON = 160
_LEAST_PATIENCE = 20.0  # seconds that a run with numbers of an edge may take
_PATIENCE = 20.0  # times what one with ordinary numbers took
_SLACK = 8.0  # times what the oracle itself moves by: another order of sums moves further than one rounding does


@dataclass(frozen=True)
class Trial:
    """Inputs of one kind, and what the oracle makes of them."""

    kind: str
    feeds: Feeds
    expected: dict[str, np.ndarray]


class Probes:
    """A graph in the oracle, opened when it is first tried."""

    def __init__(
        self, model: ir.Model, arch: DecoderArch | None = None, samples: Samples = _NONE, most: int = _SAMPLES
    ) -> None:
        """`samples`: inputs that the plan gives for this graph, of which `most` are tried."""
        self._model, self._arch, self._samples, self._most = model, arch, samples, most
        self._longest = 0.0  # seconds of a run with ordinary numbers

    @cached_property
    def open(self) -> list[str]:
        """The open dimensions of the inputs: names, or `input.axis` where the file gives none."""
        return open_dimensions(self._model.graph.inputs)

    def sizes(self) -> Iterator[Sizes]:
        """Sizes of the open dimensions that the oracle runs with: those of samples, then small and usual ones."""
        if not self.open or self._arch is not None:
            yield {}
            return
        given = [self._sizes_of(feeds) for feeds in self._sample_feeds()]
        for sizes in dict.fromkeys(map(tuple, map(dict.items, given))):
            yield dict(sizes)
        for sizes in self._candidates():
            if sizes not in given and self._small(sizes) and self._try(self._feeds(sizes, 0, ORDINARY)) is not None:
                yield sizes

    def samples(self) -> list[Trial]:
        """The inputs that the plan gives; E0380 where the oracle refuses them."""
        found: list[Trial] = []
        for feeds in self._sample_feeds():
            try:
                found.append(Trial(SAMPLE, feeds, self._run(feeds)))
            except Exception as problem:  # the engine raises types of its own for each kind of refusal
                first = (str(problem).splitlines() or [""])[0][:_LONGEST_REASON]
                fail("E0380", f"the model does not run with call {len(found)} of its `sample`: {first}")
        return found

    def trials(self, most_sizes: int = 2) -> list[Trial]:
        """Everything a graph is tried with: the samples, ordinary numbers at up to `most_sizes` sizes, each edge.

        A decoder is tried with one call. Empty where no sizes or no numbers were found that the oracle runs with.
        """
        if self._arch is not None:
            return [trial for trial in [self.trial({})] if trial is not None]
        sizes = list(itertools.islice(self.sizes(), most_sizes))
        found: list[Trial | None] = [*self.samples()]
        found += [self.trial((sizes * 2)[seed], seed) for seed in range(2 if sizes else 0)]
        found += [self.trial(sizes[0], seed, kind) for seed, kind in enumerate(EDGES) if sizes]
        return [trial for trial in found if trial is not None]

    def trial(self, sizes: Sizes, seed: int = 0, kind: str = ORDINARY) -> Trial | None:
        """Random inputs of one kind at these sizes; None where the oracle refuses them."""
        feeds = self._feeds(sizes, seed, kind)
        expected = self._try(feeds, kind)
        return None if expected is None else Trial(kind, feeds, expected)

    @property
    def model(self) -> ir.Model:
        """The graph that is tried."""
        return self._model

    def given(self, feeds: Feeds, kind: str) -> Trial | None:
        """Inputs from elsewhere; None where the oracle refuses them."""
        expected = self._try(feeds, kind)
        return None if expected is None else Trial(kind, feeds, expected)

    def rounding(self, trial: Trial) -> dict[str, float]:
        """By output, the most that it moves by when the result of every op moves by its last digit, and some slack.

        Terms that cancel leave an output that is nothing but rounding: a bound relative to its size would be too small.
        """
        moved = dict.fromkeys(trial.expected, 0.0)
        for seed in range(_SHAKES):
            made = oracle.run(_shaken(self._model, seed), trial.feeds)
            for name, exact in trial.expected.items():  # of a graph whose inner values are outputs it may have few
                moved[name] = max(moved[name], _difference(made[name], exact))
        return {name: _SLACK * distance for name, distance in moved.items()}

    def _feeds(self, sizes: Sizes, seed: int, kind: str) -> Feeds:
        return random_feeds(self._model.graph, self._arch, seed, sizes=sizes, kind=kind)

    def _sample_feeds(self) -> Iterator[Feeds]:
        """Samples as far as they are inputs of this graph: a part has others."""
        names = {value.name for value in self._model.graph.inputs}
        if len(self._samples) and names <= self._samples.names:
            yield from self._samples.feeds(self._model.graph, self._most)

    def _sizes_of(self, feeds: Feeds) -> dict[str, int]:
        return {
            dim.value or f"{value.name}.{axis}": feeds[value.name or ""].shape[axis]
            for value in self._model.graph.inputs
            for axis, dim in enumerate(value.shape or ())
            if not isinstance(dim, int)
        }

    def _candidates(self) -> Iterator[Sizes]:
        known = {name: size for name, size in fixed_sizes(self._model.graph).items() if name in self.open}
        left = [name for name in self.open if name not in known]
        if known and not left:
            yield known
        for size in _SIZES if left else ():
            yield {**dict.fromkeys(left, size), **known}
        for size in _SIZES if len(left) > 1 else ():  # the first is the batch, as a rule
            yield {**dict.fromkeys(left, size), **known, left[0]: 1}

    def _small(self, sizes: Sizes) -> bool:
        counts = (math.prod(dims(value, sizes)) for value in self._model.graph.inputs)
        return all(count <= _MOST for count in counts)

    def _try(self, feeds: Feeds, kind: str = ORDINARY) -> dict[str, np.ndarray] | None:
        """None where the oracle refuses them, or where numbers of an edge keep a loop running; OSError as it comes."""
        begun = time.monotonic()
        try:
            if kind in EDGES:
                return self._run(feeds, max(_LEAST_PATIENCE, _PATIENCE * self._longest))
            made = self._run(feeds)
            self._longest = max(self._longest, time.monotonic() - begun)
            return made
        except OSError:  # no room for a file of it: that is no refusal
            raise
        except Exception:  # the engine raises types of its own for each kind of refusal
            return None

    def _run(self, feeds: Feeds, seconds: float | None = None) -> dict[str, np.ndarray]:
        """Outputs by name; the oracle is stopped, and raises, after `seconds`."""
        if in_rows.is_large(self._model.graph) and in_rows.goes_in_rows(self._model.graph):
            return in_rows.run(self._model, feeds)
        names = [output.name for output in self._session.get_outputs()]
        options = onnxruntime.RunOptions()
        timer = threading.Timer(seconds, setattr, (options, "terminate", True)) if seconds is not None else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            values = self._session.run(names, feeds, options)
        finally:
            if timer is not None:
                timer.cancel()
        return {n: np.asarray(made) for n, made in zip(names, values, strict=True)}

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return oracle.open_session(self._model, quiet_session)


def _shaken(model: ir.Model, seed: int) -> ir.Model:
    """A copy in which what each op makes in float32 is multiplied by 1 plus or minus the last digit."""
    rng, copy = np.random.default_rng(seed), clone_model(model)
    graph = copy.graph
    for index, node in enumerate(list(graph)):
        for value in node.outputs:
            if not is_tensor_of(value, ir.DataType.FLOAT) or not (value.uses() or value.is_graph_output()):
                continue
            name = f"{value.name}.shaken{index}"
            factor = initializer(graph, f"{name}.by", from_array(f"{name}.by", rng.choice(_LAST_DIGITS, ())))
            moved = ir.node("Mul", [value, factor], name=name)
            made = moved.outputs[0]
            made.name, made.type, made.shape = name, value.type, value.shape
            graph.insert_after(node, moved)
            take_over(graph, value, made, (moved,))
    return copy


def _difference(made: np.ndarray, expected: np.ndarray) -> float:
    """The largest finite difference; 0 for what is no float or has another shape."""
    if made.shape != expected.shape or made.dtype.kind != "f":
        return 0.0
    apart = np.abs(made.astype(np.float64) - expected.astype(np.float64))
    return float(apart[np.isfinite(apart)].max(initial=0.0))
