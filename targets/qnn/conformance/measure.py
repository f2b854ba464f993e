"""Run every lowering of the grid on the HTP emulator against the oracle and keep the table.

    python -m edgec.targets.qnn.conformance.measure [--quick] [--arch v75] [--only NAME] [--output FILE]

verdict   right      max|y - y0| <= 0.01 * max|y0|  and  cosine(y, y0) >= 0.9995, y0 the float32 oracle
                     0.02 on integers: HTP's 16-bit softmax loses a quarter of a step at each position
          wrong      the compiler took the graph and the numbers are not those
          rejected   the compiler refused the graph
          crash      the compiler or the emulator died
unended    neither came to an end in time: says nothing, and is not kept

A row is one lowering at one shape on one architecture; rows of other architectures in the table stay as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....compiler.diagnostics.diagnostic import EdgecError, EngineError
from ....compiler.emit.child_process import Child
from ....compiler.ir.activation_encodings import Encoding
from ....compiler.ir.save import save_graphs
from ....compiler.plan.devices import devices
from ..htp.chip import Chip, tool_versions
from ..htp.context_binary import WORKER
from ..lower.builder import WeightStore
from ..lower.feeds import from_target, to_target
from ..lower.lower_graphs import lower
from .case import Case
from .cases import grid
from .table import TABLE, Row, Table

MAX_ERROR, MAX_INTEGER_ERROR, MIN_COSINE = 0.01, 0.02, 0.9995
_TIMEOUT = 300.0  # seconds a case may take; the compiler was seen not to end on a flat vector of 98304
_CASES_PER_CHILD = 60  # memory of the engine grows with every graph
_DEATHS = {"E0990": "crash", "E0991": "unended"}
_SEVERITY = ("right", "rejected", "wrong", "crash")


@dataclass
class Runner:
    """Runs cases in worker processes, a new one after a crash."""

    chip: Chip
    child: Child | None = None
    used: int = 0

    def run(self, cases: Iterable[Case]) -> Iterator[Row]:
        for case in cases:
            with tempfile.TemporaryDirectory(prefix="edgec-case-") as folder:
                yield self._run(case, Path(folder))
        self.close()

    def close(self) -> None:
        if self.child is not None:
            self.child.close()
        self.child, self.used = None, 0

    def _run(self, case: Case, folder: Path) -> Row:
        model, feeds = case.make()
        shape, encodings = dict(case.shape), {}
        if case.raw:
            target = model
        else:
            lowered = lower({"case": model}, WeightStore())["case"]
            target, encodings = lowered.model, lowered.encodings
            shape = dict(next(use.shape for use in lowered.uses if use.lowering == case.lowering))
        save_graphs({"case": target, "oracle": model}, folder, "case.data")
        half = _target_feeds(target, feeds, encodings)
        if self.used >= _CASES_PER_CHILD:
            self.close()
        if self.child is None:
            self.child = Child(WORKER, what=f"the case `{case.name}`", timeout=_TIMEOUT)
        self.used += 1
        verdict, error, cosine = self._measure(folder, feeds, half, encodings)
        return Row(f"v{self.chip.arch}", case.lowering, shape, verdict, error, cosine)

    def _measure(
        self, folder: Path, feeds: dict[str, Any], half: dict[str, Any], encodings: Mapping[str, Encoding]
    ) -> tuple[str, float, float]:
        assert self.child is not None
        try:
            answer = self.child.call(
                "case", folder=str(folder), oracle=str(folder / "oracle.onnx"), feeds=feeds, half=half,
                soc_model=self.chip.soc_model, arch=self.chip.arch, vtcm_mb=self.chip.vtcm_mb,
            )  # fmt: skip
        except EngineError as failure:
            death = _DEATHS.get(failure.diagnostics[0].code)
            if death is not None:
                self.close()
                return death, float("nan"), float("nan")
            if "run_oracle" in str(failure):  # our own case is at fault, not the engine
                raise
            return "rejected", float("nan"), float("nan")
        if "rejected" in answer:
            return "rejected", float("nan"), float("nan")
        most = MAX_INTEGER_ERROR if encodings else MAX_ERROR
        return judge(from_target(answer["outputs"], encodings), answer["oracle"], most)


def _target_feeds(
    target: Any, feeds: dict[str, np.ndarray], encodings: Mapping[str, Encoding]
) -> dict[str, np.ndarray]:
    """The static graph's feeds in the target graph's layouts and types."""
    return to_target([(v.name, tuple(v.shape), v.dtype.numpy()) for v in target.graph.inputs], feeds, encodings)


def judge(
    outputs: dict[str, np.ndarray], oracle: dict[str, np.ndarray], most: float = MAX_ERROR
) -> tuple[str, float, float]:
    """Verdict, worst error relative to the largest value, worst cosine over all outputs."""
    error, cosine = 0.0, 1.0
    for name, expected in oracle.items():
        y, y0 = outputs[name].astype(np.float64).ravel(), expected.astype(np.float64).ravel()
        if y.shape != y0.shape or not np.isfinite(y).all():
            return "wrong", float("inf"), 0.0
        error = max(error, float(np.abs(y - y0).max() / max(np.abs(y0).max(), 1e-12)))
        norms = float(np.linalg.norm(y) * np.linalg.norm(y0))
        cosine = min(cosine, float(y @ y0) / norms if norms else float(np.array_equal(y, y0)))
    right = error <= most and cosine >= MIN_COSINE
    return ("right" if right else "wrong"), error, cosine


def worst(rows: Iterable[Row]) -> list[Row]:
    """One row per lowering and shape: the worst of those that share it."""
    kept: dict[Any, Row] = {}
    for row in rows:
        if row.verdict == "unended":
            continue
        old = kept.get(row.key)
        if old is None or (_SEVERITY.index(row.verdict), row.error) > (_SEVERITY.index(old.verdict), old.error):
            kept[row.key] = row
    return list(kept.values())


def chip_for(arch: str) -> Chip:
    """A device of the table with that architecture."""
    found = next((device for device in devices().values() if device.arch == arch and device.soc), None)
    if found is None:
        raise SystemExit(f"no device of the table has {arch}")
    return Chip.of(found)


def _keep(path: Path, arch: str, rows: list[Row], partly: bool) -> None:
    table = Table.load(path) if path.exists() else Table([], {}, [])
    table.replace(arch, worst(rows), tool_versions(), partly)
    table.save(path)


def main(arguments: list[str] | None = None) -> int:
    """Update the table for one architecture; progress on stderr."""
    parser = argparse.ArgumentParser(prog="python -m edgec.targets.qnn.conformance.measure")
    parser.add_argument("--quick", action="store_true", help="a few shapes of each lowering")
    parser.add_argument("--arch", default="v75", help="v69, v73, v75, v79 or v81 (default v75)")
    parser.add_argument("--only", default="", help="only lowerings whose name begins so")
    parser.add_argument("--output", type=Path, default=TABLE)
    options = parser.parse_args(arguments)
    runner = Runner(chip_for(options.arch))
    cases = [case for case in grid(options.quick) if case.lowering.startswith(options.only)]
    start, rows = time.monotonic(), []
    for index, row in enumerate(runner.run(cases)):
        rows.append(row)
        if row.verdict != "right" or index % 50 == 0:
            note = f"{row.verdict} error {row.error:.4g} cosine {row.cosine:.5f}"
            print(f"{index + 1}/{len(cases)} {cases[index].name}: {note}", file=sys.stderr, flush=True)
        if index % 100 == 99:
            _keep(options.output, options.arch, rows, partly=True)
    _keep(options.output, options.arch, rows, partly=bool(options.only))
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in (*_SEVERITY, "unended")}
    print(json.dumps({"arch": options.arch, "seconds": round(time.monotonic() - start), **counts}))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgecError as error:
        sys.exit(str(error))
