"""A graph that an engine lowered by itself, proven: its outputs and some values inside it against the oracle's.

build -> run every trial -> compare; wrong -> the nodes that are (`find_wrong`) -> NotTaken

An emulator may take minutes for a run. Once runs have taken `PATIENCE` seconds, those that are left are not begun: the
first, of a sample or of ordinary numbers, is always run. What was run is in the manifest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from ..diagnostics.diagnostic import EngineError
from ..ir.samples import Samples
from ..oracle import oracle
from ..oracle.compare import EDGES
from ..oracle.probes import Probes, Trial
from .detached import chosen, inner_values, tapped
from .errors import Arithmetic, far, relative_errors, scales
from .find_wrong import FAILED, Build, find_wrong, shaped
from .not_taken import NotTaken
from .trials import trials
from .whole_feeds import Called

if TYPE_CHECKING:
    from ..emit.engine_protocols import GraphSession

_DIGITS = ".3g"
PATIENCE = 40.0  # seconds that runs in the engine take together, above which no further one is begun


@dataclass
class Proven:
    """What proved a graph: the kinds of inputs, the worst error of each output on those that are no edge, the bound."""

    arithmetic: Arithmetic
    probes: list[str]
    errors: dict[str, float]
    bound: float  # the largest that an output needed
    inner: dict[str, float] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """As the manifest holds it."""
        found: dict[str, Any] = {
            "arithmetic": self.arithmetic.name,
            "probes": self.probes,
            "max_error": _short(self.errors),
        }
        found["bound"] = float(format(self.bound, _DIGITS))
        return found | ({"inner": _short(self.inner)} if self.inner else {})


def _short(errors: dict[str, float]) -> dict[str, float]:
    return {name: float(format(error, _DIGITS)) for name, error in errors.items()}


@dataclass
class Proof:
    """What a graph is proven with: tried once, so that two ways to lower it are held against the same numbers."""

    model: ir.Model
    name: str  # of the model, for people
    engine: str
    arithmetic: Arithmetic
    samples: Samples = field(default_factory=Samples)
    called: Sequence[Called] = ()  # of a part: what flows into it (`whole_feeds`)
    edges: Sequence[str] = EDGES
    slower: float = 1.0  # times the oracle's seconds that a run of the engine takes
    say: Callable[[str], None] = lambda _text: None

    def __post_init__(self) -> None:
        self.probes = Probes(self.model, samples=self.samples)
        begun = time.monotonic()
        called = [
            self.probes.given(feeds, kind) for kind, feeds in self.called if kind not in EDGES or kind in self.edges
        ]
        self.trials = [trial for trial in called if trial is not None]
        self.seconds = (time.monotonic() - begun) / max(1, len(called))
        if not self.trials or self.trials[0].kind in EDGES:
            self.trials, self.seconds = trials(self.probes, self.name, self.edges)

        self._trial = self.trials[0]
        self._taken = 0.0  # seconds that runs have taken

    def outlook(self) -> str:
        """How many runs it takes, and about how long."""
        seconds = len(self.trials) * self.seconds * self.slower + 1
        fewer = f", fewer once they have taken {PATIENCE:.0f} s" if seconds > PATIENCE else ""
        return f"{len(self.trials)} runs, about {seconds:.0f} s{fewer}"

    def judge(self, build: Build) -> Proven:
        """Build and run it; NotTaken with the nodes where it fails or is wrong."""
        try:
            with closing(build(self.model)) as session:
                found = self._run(session)
        except EngineError as error:
            if error.diagnostics[0].code not in FAILED:
                raise
            found = self._trial
        if isinstance(found, Proven):
            found = self._inside(build, found)
        if isinstance(found, Trial):
            nodes = find_wrong(self.model, build, found, self.arithmetic, self.say)
            raise NotTaken(self.engine, self.name, nodes)
        return found

    def _run(self, session: GraphSession) -> Proven | Trial:
        """What it proves, or the first trial that comes out wrong."""
        worst: dict[str, float] = {}
        least = scales(self.model)
        bound = self.arithmetic.bound
        ran: list[str] = []
        for trial in self.trials:
            if ran and self._taken > PATIENCE:
                each = self._taken / len(ran)
                self.say(f"{self.name}: {len(ran)} of {len(self.trials)} runs, as each takes {each:.0f} s")
                break
            self._trial = trial  # an engine may die of these numbers alone
            begun = time.monotonic()
            made = session.run(trial.feeds)
            self._taken += time.monotonic() - begun
            ran.append(trial.kind)
            if far(self.probes, trial, made, self.arithmetic):
                return trial
            if trial.kind not in EDGES:
                for name, error in relative_errors(made, trial.expected, least).items():
                    worst[name] = max(worst.get(name, 0.0), error)
                bound = max(bound, *(worst.values()))
        return Proven(self.arithmetic, ran, worst, bound)

    def _inside(self, build: Build, found: Proven) -> Proven | Trial:
        """With the errors of some values inside, made outputs of another build; the first trial where one is wrong.

        Outputs may be right by chance: a maximum, a class, a probability that saturates.
        """
        names = chosen(inner_values(self.model))
        if not names or self._taken > PATIENCE:
            return found
        trial = self.trials[0]
        for aside in (False, True):
            opened = tapped(self.model, names, aside)
            try:
                with closing(build(opened)) as session:
                    made = session.run(trial.feeds)
            except (EngineError, NotTaken):  # what ships does run: other outputs are asked too much
                return trial if aside else found
            expected = {name: array for name, array in oracle.run(opened, trial.feeds).items() if name in names}
            made = {name: shaped(made[name], array) for name, array in expected.items()}
            found.inner = relative_errors(made, expected, scales(self.model))
            within = Trial(trial.kind, trial.feeds, expected)
            if not far(Probes(opened), within, made, self.arithmetic):
                return found
        return trial
