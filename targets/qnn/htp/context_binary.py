"""Read a context binary back and compare it with what was meant to be in it.

The engine can report success and leave a graph out, so nothing is believed that was not read back: graphs, tensor
names, dtypes, shapes. (The numbers are another matter: flipped weight bytes load; hashes guard those.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....compiler.diagnostics.diagnostic import Diagnostic, EngineError, fail
from ....compiler.emit.child_process import Child
from ....compiler.ir.activation_encodings import Encoding
from .engine_options import ignored, option_rows

if TYPE_CHECKING:
    from .chip import Chip

WORKER = "edgec.targets.qnn.htp.worker"
# The compiler writes memory it has not set into binaries: with its sparse store, behind every weight whose inputs are
# no multiple of 256. No two compiles are the same then, and graphs do not find that their weights are. glibc clears it.
_CLEARED = {"MALLOC_PERTURB_": "255"}
_SIDES = ("inputs", "outputs")
# types of quantised tensors; how they are read is in the manifest
_FIXED: Mapping[str, str] = {"ufixed16": "uint16", "ufixed8": "uint8", "sfixed16": "int16"}


def start_worker(what: str, timeout: float | None = None, fixed: bool = False) -> Child:
    """A process for the HTP compiler and emulator; `what` is at work, in messages; `fixed` as `Child` has it."""
    return Child(WORKER, what=what, env=_CLEARED, timeout=timeout, fixed=fixed)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph, as the binary's metadata has it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    quantization: Mapping[str, Any] | None = field(default=None, compare=False)  # as the binary has it

    def __str__(self) -> str:
        return f"`{self.name}` {self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class GraphSpec:
    """The interface of one graph of a binary."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class ContextInfo:
    """The metadata of a context binary: QNN's build, the chip, its size, graphs by name, VTCM each was given."""

    build: str
    soc_model: int
    bytes: int
    graphs: Mapping[str, GraphSpec]
    vtcm_bytes: Mapping[str, int | None]
    optimization: Mapping[str, int | None]  # of each graph's finalization
    socs: tuple[int, ...] = ()  # of a container: every chip it holds a context for


def read(path: Path, child: Child | None = None, soc_model: int | None = None) -> ContextInfo:
    """The metadata of `path`; a truncated or foreign file is an error, never a crash.

    `soc_model`: of this chip, where the file is a container for several.
    """
    if not path.is_file():
        fail("E0610", f"context binary `{path.name}` is missing", kind=EngineError)
    if child is None:
        with start_worker(f"the reader of `{path.name}`") as own:
            raw = own.call("describe", path=str(path.absolute()), soc_model=soc_model)
    else:
        raw = child.call("describe", path=str(path.absolute()), soc_model=soc_model)
    if "error" in raw:
        fail(
            "E0610",
            f"`{path.name}` is not a readable QNN context binary: {raw['error']}",
            help="compile the plan again; the file is damaged or not a context binary",
            kind=EngineError,
        )
    graphs = {name: GraphSpec(_specs(g["inputs"]), _specs(g["outputs"])) for name, g in raw["graphs"].items()}
    vtcm = {name: g["vtcm_bytes"] for name, g in raw["graphs"].items()}
    levels = {name: g["optimization"] for name, g in raw["graphs"].items()}
    return ContextInfo(
        raw["build"], raw["soc_model"], path.stat().st_size, graphs, vtcm, levels, tuple(raw.get("socs", ()))
    )


def kept_info(held: Mapping[str, Any]) -> ContextInfo:
    """The metadata that `dataclasses.asdict` made a JSON object of."""
    graphs = {
        name: GraphSpec(*(tuple(TensorSpec(**{**t, "shape": tuple(t["shape"])}) for t in g[side]) for side in _SIDES))
        for name, g in held["graphs"].items()
    }
    return ContextInfo(**{**held, "graphs": graphs, "socs": tuple(held["socs"])})


def _specs(tensors: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(t["name"], _FIXED.get(t["dtype"], t["dtype"]), tuple(t["shape"]), t.get("quantization"))
        for t in tensors
    )


def compare(info: ContextInfo, expected: Mapping[str, GraphSpec]) -> list[str]:
    """What is missing in, different from or too much for `expected`, in words."""
    problems = [f"graph `{name}` is not in the binary" for name in expected.keys() - info.graphs.keys()]
    problems += [f"graph `{name}` was not asked for" for name in info.graphs.keys() - expected.keys()]
    for name in sorted(expected.keys() & info.graphs.keys()):
        for side in _SIDES:
            have = {spec.name: spec for spec in getattr(info.graphs[name], side)}
            want = {spec.name: spec for spec in getattr(expected[name], side)}
            problems += _differences(f"graph `{name}`", side[:-1], have, want)
    return sorted(problems)


def _differences(graph: str, kind: str, have: Mapping[str, TensorSpec], want: Mapping[str, TensorSpec]) -> list[str]:
    problems = [f"{graph} lacks the {kind} {want[name]}" for name in want.keys() - have.keys()]
    problems += [f"{graph} has an unexpected {kind} {have[name]}" for name in have.keys() - want.keys()]
    for name in have.keys() & want.keys():
        if have[name] != _as_stored(want[name]):
            problems.append(f"{graph}: {kind} {want[name]} came back as {have[name]}")
    return problems


def _as_stored(spec: TensorSpec) -> TensorSpec:
    """QNN has no tensor without axes: a scalar is one of a single element."""
    return spec if spec.shape else replace(spec, shape=(1,))


def verify(
    path: Path, expected: Mapping[str, GraphSpec], chip: Chip, shared: bool, child: Child | None = None
) -> ContextInfo:
    """Read `path` back; an EngineError lists everything that is not as it was meant, options of the compile too."""
    info = read(path, child, chip.soc_model)
    problems = [*compare(info, expected), *ignored(option_rows(chip, info, shared))]
    if problems:
        found = (Diagnostic("E0611", f"`{path.name}`: {problem}") for problem in problems)
        raise EngineError(*found)
    return replace(info, graphs={name: _as_meant(graph, expected[name]) for name, graph in info.graphs.items()})


def _as_meant(graph: GraphSpec, meant: GraphSpec) -> GraphSpec:
    """The tensors of a binary, in its order, with scalars as they are in the graph."""
    scalars = {spec.name for side in _SIDES for spec in getattr(meant, side) if not spec.shape}

    def one(spec: TensorSpec) -> TensorSpec:
        return replace(spec, shape=()) if spec.name in scalars else spec

    return GraphSpec(tuple(map(one, graph.inputs)), tuple(map(one, graph.outputs)))


def check_encodings(file: str, tensors: Sequence[TensorSpec], encodings: Mapping[str, Encoding]) -> None:
    """Integers have to be read as they were meant: x = (q - zero_point) * scale, HTP's offset being -zero_point."""
    problems = []
    for tensor in tensors:
        meant, have = encodings.get(tensor.name), tensor.quantization or {}
        if meant is None:
            continue
        scale = have.get("scale", math.nan)
        if not math.isclose(scale, meant.scale, rel_tol=1e-6) or have.get("offset") != -meant.zero_point:
            problems.append(f"{tensor} came back with scale {scale:g} and offset {have.get('offset')}")
    if problems:
        raise EngineError(*(Diagnostic("E0611", f"`{file}`: {problem}") for problem in problems))


def describe(path: Path) -> dict[str, Any]:
    """A context binary for `edgec inspect`."""
    info = read(path)
    return {
        "kind": "qnn context binary",
        "build": info.build,
        "soc_model": info.soc_model,
        **({"soc_models": list(info.socs)} if info.socs else {}),
        "bytes": info.bytes,
        "graphs": {
            name: {
                "inputs": [vars(spec) for spec in graph.inputs],
                "outputs": [vars(spec) for spec in graph.outputs],
                "vtcm_bytes": info.vtcm_bytes[name],
                "optimization": info.optimization[name],
            }
            for name, graph in info.graphs.items()
        },
    }
