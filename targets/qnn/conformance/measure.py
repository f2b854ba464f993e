"""How a case of the grid is run: lowered by the code that lowers models, compiled, run on the HTP emulator."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ....compiler.diagnostics.diagnostic import EngineError
from ....compiler.emit.child_process import Child
from ....compiler.emit.conformance.measure import UNENDED, Bounds, Case, verdict_of
from ....compiler.emit.conformance.op_class import Cell
from ....compiler.emit.conformance.table import Row
from ....compiler.files.scratch import scratch_folder
from ....compiler.ir.activation_encodings import Encoding
from ....compiler.ir.save import save_graphs
from ....compiler.plan.devices import devices
from ..guard import unequal
from ..htp.chip import ARCHS, Chip, tool_versions
from ..htp.context_binary import start_worker
from ..lower.builder import WeightStore
from ..lower.feeds import from_target, to_target
from ..lower.lower_graphs import lower
from .bounds import FLOATS, INTEGERS
from .cases_sparse import LOWERING as SPARSE
from .table import TABLE

_TIMEOUT = 300.0  # seconds a case may take; the compiler was seen not to end on a flat vector of 98304
_CASES_PER_CHILD = 60  # memory of the engine grows with every graph
_DEATHS = {"E0990": "crash", "E0991": UNENDED}
_NOTHING = {"error": math.nan, "cosine": math.nan}


class HtpBench:
    """The cases of HTP and the architectures they are run for."""

    places = ("v75", *(f"v{arch}" for arch in ARCHS if arch != 75))
    table = TABLE

    def cases(self, quick: bool) -> Iterator[Case]:
        """The grid of `cases.py`."""
        from .cases import grid

        return grid(quick)

    def shape_of(self, case: Case) -> Mapping[str, Cell]:
        """The shape of the use that the case's graph is lowered to; of a raw graph the case's own."""
        return Prepared.of(case).shape

    def run(self, place: str, cases: Iterable[Case]) -> Iterator[Row]:
        """One row per case, in workers of their own."""
        return Runner(chip_for(place)).run(cases)

    def tools(self) -> dict[str, str]:
        """The packages whose compiler and emulator were run."""
        return tool_versions()


@dataclass(frozen=True)
class Prepared:
    """A case lowered: the static graph and its feeds, the target-level graph, the shape that a row of it has."""

    model: ir.Model
    feeds: dict[str, np.ndarray]
    target: ir.Model
    encodings: Mapping[str, Encoding]
    shape: dict[str, Cell]

    @classmethod
    def of(cls, case: Case) -> Prepared:
        """Lower `case` as a model is lowered; a raw graph stays as it is."""
        model, feeds = case.make()
        if case.raw:
            model = model if isinstance(model, ir.Model) else ir.serde.deserialize_model(model)
            return cls(model, feeds, model, {}, dict(case.shape))
        lowered = lower({"case": model}, WeightStore())["case"]
        shape = next(use.shape for use in lowered.uses if use.lowering == case.lowering)
        return cls(model, feeds, lowered.model, lowered.encodings, dict(shape))

    def target_feeds(self) -> dict[str, np.ndarray]:
        """The static graph's feeds in the target graph's layouts and types."""
        inputs: Any = self.target.graph.inputs
        specs = [(v.name, tuple(v.shape), v.dtype.numpy()) for v in inputs]
        return to_target(specs, self.feeds, self.encodings)


@dataclass
class Runner:
    """Runs cases in worker processes, a new one after a crash."""

    chip: Chip
    child: Child | None = None
    used: int = 0

    def run(self, cases: Iterable[Case]) -> Iterator[Row]:
        """One row per case, in order."""
        for case in cases:
            yield self.one(case)
        self.close()

    def one(self, case: Case) -> Row:
        """The row of one case; the worker stays for the next."""
        with scratch_folder("case") as folder:
            return self._run(case, folder)

    def close(self) -> None:
        """End the worker."""
        if self.child is not None:
            self.child.close()
        self.child, self.used = None, 0

    def _run(self, case: Case, folder: Path) -> Row:
        prepared = Prepared.of(case)
        save_graphs({"case": prepared.target, "oracle": prepared.model}, folder, "case.data")
        if self.used >= _CASES_PER_CHILD:
            self.close()
        if self.child is None:
            self.child = start_worker(f"the case `{case.name}`", _TIMEOUT)
        self.used += 1
        measured = self._forms if case.lowering == SPARSE else self._measure
        verdict, figures, reason = measured(folder, prepared)
        return Row(f"v{self.chip.arch}", case.lowering, prepared.shape, verdict, figures, reason)

    def _forms(self, folder: Path, prepared: Prepared) -> tuple[str, dict[str, float], str]:
        """With the sparse store and without: right is the same bits. `share`: of the dense form's bytes."""
        answer = self._called("forms", folder=str(folder), feeds=prepared.feeds)
        if isinstance(answer, tuple):
            return answer
        dense, sparse = answer["dense"], answer["sparse"]
        verdict, figures = verdict_of(sparse, dense, Bounds(0.0))
        why = unequal(dense, sparse)
        figures["share"] = answer["bytes"][1] / answer["bytes"][0]
        return ("wrong" if why else verdict), figures, why or ""

    def _measure(self, folder: Path, prepared: Prepared) -> tuple[str, dict[str, float], str]:
        answer = self._called(
            "case", folder=str(folder), oracle=str(folder / "oracle.onnx"), feeds=prepared.feeds,
            half=prepared.target_feeds(),
        )  # fmt: skip
        if isinstance(answer, tuple):
            return answer
        bounds = INTEGERS if prepared.encodings else FLOATS
        return *verdict_of(from_target(answer["outputs"], prepared.encodings), answer["oracle"], bounds), ""

    def _called(self, method: str, **words: Any) -> dict[str, Any] | tuple[str, dict[str, float], str]:
        """The worker's answer, or verdict, figures and reason where the engine gave none."""
        assert self.child is not None
        chip = {"soc_model": self.chip.soc_model, "arch": self.chip.arch, "vtcm_mb": self.chip.vtcm_mb}
        try:
            answer: dict[str, Any] = self.child.call(method, **words, **chip)
        except EngineError as failure:
            death = _DEATHS.get(failure.diagnostics[0].code)
            if death is not None:
                self.close()
                return death, _NOTHING, ""
            if "run_oracle" in str(failure):  # our own case is at fault, not the engine
                raise
            return "rejected", _NOTHING, ""
        if "rejected" in answer:
            reasons = dict.fromkeys(str(node["reason"]) for node in answer["rejected"] if node["reason"])
            return "rejected", _NOTHING, "; ".join(reasons)
        return answer


def chip_for(arch: str) -> Chip:
    """A device of the table of devices with that architecture."""
    found = next((device for device in devices().values() if device.arch == arch and device.soc), None)
    if found is None:
        raise SystemExit(f"no device of the table has {arch}")
    return Chip.of(found)
