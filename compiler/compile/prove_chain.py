"""The parts of a plain graph together, as they were written, against the oracle on the whole graph.

    inputs -> part -> part -> … -> outputs      each in its own engine
    inputs -> the graph behind its passes       in ONNX Runtime

By itself a part was right for exact inputs; here it reads what the parts before it made, and what they lost in float16
may be all that is left of a difference. Where a value is further off than the arithmetic explains, the parts run again
with one of them in ONNX Runtime, for each that leads there: the engine is not to have the one whose absence leaves the
smallest error (`NotTaken`), whole.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.manifest import Manifest
from ..diagnostics.diagnostic import Diagnostic, EdgecError, EngineError
from ..oracle import oracle
from ..oracle.compare import EDGES, FROM_THE_END
from ..oracle.probes import Probes, Trial
from ..proof.detached import tapped
from ..proof.errors import FLOAT16, FLOAT32, INTEGERS, Arithmetic, far, relative_errors, scales, share
from ..proof.find_wrong import FAILED, shaped
from ..proof.not_taken import NotTaken, Wrong
from ..proof.prove import PATIENCE, Proven
from ..proof.trials import trials
from ..proof.whole_feeds import source
from ..runtime.decoder_inputs import as_float, as_tensor
from ..runtime.engines import open_graph, target_of
from ..runtime.plain_graph import run_parts

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from ..emit.engine_protocols import GraphSession
    from ..emit.target import Emission
    from ..ir.module import Module
    from ..partition.parts import PartGraph

_STEPS = 0.15  # an `emission_bound` of parts that round to 8 bits what they read
_COARSE = dataclasses.replace(INTEGERS, bound=_STEPS, most=_STEPS)
_FINEST_FIRST = (FLOAT32, FLOAT16, INTEGERS, _COARSE)
_KINDS = (FROM_THE_END,)  # large numbers leave float16's range, small ones its digits
Values = dict[str, np.ndarray]


def prove_chain(
    module: Module, cut: PartGraph, emission: Emission, bundle: Path, own: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """What proved the parts of `module` together, by graph; nothing of one part, or where no numbers are found.

    `own`: the target that the model is deployed as. NotTaken with the nodes of the part that it is not to have.
    """
    if len(cut.parts) < 2 or emission.engine != "chain":
        return {}
    found: dict[str, Any] = {}
    for key in module.graphs:
        proven = _Chain(module, key, cut, emission, bundle, own).prove(say)
        if proven is not None:
            found[key] = proven.facts()
    return found


class _Chain:
    """The parts of one graph, each open in its engine once."""

    def __init__(self, module: Module, key: str, cut: PartGraph, emission: Emission, bundle: Path, own: str) -> None:
        self._name, self._key, self._own = module.name, key, own
        self._schedule = cut.schedule()
        self._graphs = {part.name: part.graphs[key] for part in cut.parts}
        row = {"name": key, "parts": list(self._schedule.parts), "schedule": self._schedule.entry()}
        models = {module.name: {"kind": "graph", "buckets": [row]}}
        self._manifest = Manifest(bundle, {"models": models, "parts": emission.parts})
        model = module.graphs[key]
        self._outputs = [value.name or "" for value in model.graph.outputs]
        made = (spec["name"] for part in self._graphs for spec in self._specs(part))
        self._sources = {name: found for name in made if (found := source(model, name)) is not None}
        self._probes = Probes(tapped(model, self._sources.values()), samples=module.samples)
        self._least = scales(model)
        self.arithmetic = max(map(self._of, self._graphs), key=_FINEST_FIRST.index)

    def prove(self, say: Callable[[str], None]) -> Proven | None:
        """What it is right by; None where no sizes and numbers are found that the graph runs with."""
        try:
            tried, seconds = trials(self._probes, self._name, _KINDS)
        except EdgecError:
            return None
        about = len(tried) * seconds * max(target_of(self._entry(part)).slower for part in self._graphs) + 1
        say(f"{self._name}: its {len(self._graphs)} parts together, {len(tried)} runs, about {about:.0f} s")
        worst = dict.fromkeys(self._outputs, 0.0)
        begun, ran = time.monotonic(), list[str]()
        with ExitStack() as stack:
            self._sessions = _Sessions(self._graphs, stack)
            for trial in tried:
                if ran and time.monotonic() - begun > PATIENCE:
                    say(f"{self._name}: {len(ran)} of {len(tried)} runs of its parts together, as they take long")
                    break
                ran.append(trial.kind)
                if (wrong := self._wrong(trial)) is not None:
                    raise NotTaken(f"`as {self._own}`", self._name, [wrong])
                if trial.kind not in EDGES:
                    errors = relative_errors(self._made, trial.expected, self._least)
                    worst = {name: max(error, errors[name]) for name, error in worst.items()}
        bound = max(self.arithmetic.bound, *worst.values())
        return Proven(self.arithmetic, ran, worst, bound)

    def _wrong(self, trial: Trial) -> Wrong | None:
        """What the engine is not to have, if a value is too far off or an engine fails; `_made` has the values."""
        try:
            self._made = self._run(trial)
        except _Misshapen as odd:
            if self._entry(odd.part)["target"] != self._own:
                raise
            return self._whole(odd.part, "comes out in another shape")
        except EngineError as error:
            if error.diagnostics[0].code not in FAILED or self._sessions.failed is None:
                raise
            return self._whole(self._sessions.failed, "makes it fail behind other parts")
        wrong = far(self._probes, trial, self._made, self.arithmetic)
        for part in self._schedule.parts:
            if off := [wrong[name] for name in self._names(part) if name in wrong]:
                error, bound = max(off)
                blamed = self._blamed(trial, part)
                told = f"with it `{part}` is off by {share(error)} of its range, and {share(bound)} is rounding"
                return self._whole(blamed, f"is in `{blamed}`, which loses too much for the parts behind it: {told}")
        return None

    def _blamed(self, trial: Trial, off: str) -> str:
        """The engine's part without which the least is lost, of those that lead to the first that is off."""
        engine = [part for part in self._leading_to(off) if self._entry(part)["target"] == self._own]
        names = self._names(off)
        left: dict[str, float] = {}
        for part in engine if len(engine) > 1 else ():
            try:
                made = self._run(trial, part)
            except EngineError:
                continue
            errors = relative_errors(made, {name: trial.expected[name] for name in names}, self._least)
            left[part] = max(errors.values())
        return min(engine, key=lambda part: left.get(part, np.inf), default=off)

    def _whole(self, part: str, why: str) -> Wrong:
        nodes = list(self._graphs[part].graph)
        return Wrong(nodes[0].name or "", nodes[0].op_type, why, tuple(node.name or "" for node in nodes[1:]))

    def _run(self, trial: Trial, instead: str = "") -> Values:
        """What every part makes, as floats, by its name in the graph; `instead`: the part that ONNX Runtime runs."""
        made = dict(trial.expected)  # what no part makes: a constant that is an output as it stands

        def tap(part: str, outputs: Mapping[str, np.ndarray]) -> None:
            for spec in self._specs(part):
                name = self._sources.get(spec["name"])
                if name is not None:
                    array = np.asarray(outputs[spec["name"]])  # a sequence as the oracle has it
                    made[name] = shaped(as_float(array, spec), trial.expected[name])
                    if made[name].shape != trial.expected[name].shape:
                        raise _Misshapen(part)

        def opener(manifest: Manifest, part: str, bucket: str) -> GraphSession:
            return self._sessions.open(manifest, part, bucket, part == instead)

        run_parts(self._manifest, self._name, trial.feeds, self._key, tap, opener)
        return made

    def _leading_to(self, part: str) -> list[str]:
        makers, found = self._schedule.makers(), {part}
        for one in reversed(self._schedule.parts):
            found |= makers[one] if one in found else set()
        return [one for one in self._schedule.parts if one in found]

    def _names(self, part: str) -> list[str]:
        return [self._sources[spec["name"]] for spec in self._specs(part) if spec["name"] in self._sources]

    def _entry(self, part: str) -> dict[str, Any]:
        return self._manifest.part(part)

    def _specs(self, part: str) -> list[dict[str, Any]]:
        return self._entry(part)["graphs"][self._key]["outputs"]

    def _of(self, part: str) -> Arithmetic:
        """What a part computes in, by what its entry says."""
        entry = self._entry(part)
        if target_of(entry).emission_bound(entry) >= _STEPS:
            proof = entry["details"].get("proof", {})
            return INTEGERS if self._key in proof else _COARSE  # what a provider lowers by itself was held to less
        return FLOAT16 if entry["details"].get("precision") == "fp16" else FLOAT32


class _Misshapen(EngineError):
    """A part gave a value that crosses, or an output, in another shape than the graph has it in."""

    def __init__(self, part: str) -> None:
        self.part = part
        super().__init__(Diagnostic("E0917", f"part `{part}` makes a value of another shape than the graph does"))


@dataclass
class _Sessions:
    """The parts of a graph in their engines, each opened when it is first run and closed with `stack`."""

    graphs: Mapping[str, ir.Model]
    stack: ExitStack
    failed: str | None = None  # the part whose engine did

    def __post_init__(self) -> None:
        self._open: dict[tuple[str, bool], GraphSession] = {}

    def open(self, manifest: Manifest, part: str, bucket: str, reference: bool) -> GraphSession:
        """A part in its engine, or in ONNX Runtime; closing it leaves it open."""
        if (part, reference) not in self._open:
            entry = manifest.parts[part]["graphs"][bucket]
            model = self.graphs[part]
            opened = _InTheOracle(model, entry) if reference else self._engine(manifest, part, bucket)
            self.stack.callback(opened.close)
            self._open[part, reference] = opened
        return _Kept(self, part, self._open[part, reference])

    def _engine(self, manifest: Manifest, part: str, bucket: str) -> GraphSession:
        try:
            return open_graph(manifest, part, bucket)
        except EngineError:
            self.failed = part
            raise


@dataclass
class _Kept:
    sessions: _Sessions
    part: str
    session: GraphSession

    def run(self, feeds: dict[str, np.ndarray]) -> Values:
        """Outputs by name."""
        try:
            return self.session.run(feeds)
        except EngineError:
            self.sessions.failed = self.part
            raise

    def close(self) -> None:
        """It is closed with the others."""


@dataclass
class _InTheOracle:
    """A part as the passes left it, between parts whose engines have other types at their boundary."""

    model: ir.Model
    entry: Mapping[str, Any]

    def run(self, feeds: dict[str, np.ndarray]) -> Values:
        """Outputs by name; floats are not rounded to what the engine would have written."""
        read = {spec["name"]: as_float(feeds[spec["name"]], spec) for spec in self.entry["inputs"]}
        kinds = {value.name or "": value.dtype for value in self.model.graph.inputs}
        given = {name: read[name].astype(kind.numpy()) for name, kind in kinds.items() if kind is not None}
        made = oracle.run(self.model, given)
        integers = {spec["name"]: spec for spec in self.entry["outputs"] if "quantization" in spec}
        return {name: as_tensor(one, integers[name]) if name in integers else one for name, one in made.items()}

    def close(self) -> None:
        """Nothing is held."""
