"""Run a model that is a plain graph once: arrays from an .npz file in, an .npz file out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.file_hashes import check_files
from ..bundle.manifest import Manifest, load_manifest
from ..bundle.schedule import Schedule
from ..diagnostics.diagnostic import Diagnostic, EdgecError, EngineError, fail
from ..packed.packed_bundle import runnable
from .chain import Opener
from .decoder_inputs import as_tensor
from .engines import open_graph, open_oracle
from .generate import choose_model
from .given_inputs import candidates, sound_facts
from .on_device import for_device
from .run_schedule import run_schedule
from .signature import check_shape, described, entering, graph_inputs, graph_outputs, leaving

_LONGEST_REASON = 160
_NUMBERS = (
    "an index out of range, or sizes that do not fit each other, end so: see that the model takes these inputs; if it "
    "does, `edgec verify` says whether the bundle is whole"
)
Tap = Callable[[str, Mapping[str, np.ndarray]], None]  # part, its outputs


def run_graph(
    bundle: Path | str,
    inputs: Path | str | None,
    outputs: Path | str | None = None,
    model: str | None = None,
    oracle: bool = False,
    device: str | None = None,
    random: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Inputs and outputs by name with dtype, shape and range; the outputs are written to `outputs` (.npz) if given.

    `inputs`: an .npz file, an image or a .wav (`given_inputs.py`). `random`: arrays for the inputs it lacks, by `seed`.

    `oracle`: in ONNX Runtime where a part's own engine is slow on this machine. `device`: as for
    `run_bundle`.
    """
    manifest = for_device(runnable(load_manifest(Path(bundle))), device)
    check_files(manifest)
    name = choose_model(manifest, model)
    path, opener = None if inputs is None else Path(inputs), open_oracle if oracle else open_graph
    given, made = _first_that_runs(manifest, name, path, random, seed, opener)
    if outputs is not None:
        with Path(outputs).open("wb") as file:
            np.savez(file, **{name: _plain(array) for name, array in _flat(made)})  # pyright: ignore[reportArgumentType] - its keywords are arrays
    told = [{key: _summary(array) for key, array in arrays.items()} for arrays in (given, made)]
    sound = {} if path is None or (facts := sound_facts(path)) is None else {"sound": facts}
    return {"model": name, **sound, "inputs": told[0], "outputs": told[1]}


def _first_that_runs(
    manifest: Manifest, name: str, path: Path | None, random: bool, seed: int, opener: Opener
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(inputs, outputs) of the first candidate that runs; the error of the last where none does."""
    specs = graph_inputs(manifest, name, _bucket(manifest, name, None))
    last: EdgecError | None = None
    for arrays in candidates(specs, path, random, seed):
        try:
            return run_given(manifest, name, arrays, _fitting(manifest, name, arrays), opener)
        except EdgecError as error:
            last = error
        except Exception as problem:  # the engine raises types of its own for sizes that do not fit
            if not random:
                raise
            last = EngineError(Diagnostic("E0927", f"model `{name}` does not run: {_first_line(problem)}"))
    raise last or ValueError("no candidates")


def _fitting(manifest: Manifest, name: str, arrays: Mapping[str, np.ndarray]) -> str:
    """The bucket whose shapes the arrays have; the first where none does, which then says what it reads."""
    rows = manifest.model(name).get("buckets") or [_bucket(manifest, name, None)]
    return next((row["name"] for row in rows if _fits(graph_inputs(manifest, name, row), arrays)), rows[0]["name"])


def _fits(specs: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]) -> bool:
    for spec in specs:
        have = arrays[spec["name"]].shape if spec["name"] in arrays else spec["shape"]
        pairs = zip(spec["shape"], have, strict=False)
        if len(have) != len(spec["shape"]) or any(isinstance(d, int) and d != n for d, n in pairs):
            return False
    return True


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [""])[0][:_LONGEST_REASON]


def run_given(
    manifest: Manifest, name: str, given: Mapping[str, np.ndarray], bucket: str | None, opener: Opener
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(inputs, outputs) in the graph's types, for arrays that a user gives; E0923 for what does not fit."""
    arrays = entering(manifest, name, _bucket(manifest, name, bucket), given)
    try:
        return arrays, run_parts(manifest, name, arrays, bucket, opener=opener)
    except EngineError as error:
        if error.diagnostics[0].code != "E0803":
            raise
        raise EngineError(replace(error.diagnostics[0], help=_NUMBERS)) from error


def run_parts(
    manifest: Manifest,
    name: str,
    arrays: Mapping[str, np.ndarray],
    bucket: str | None = None,
    tap: Tap | None = None,
    opener: Opener = open_graph,
) -> dict[str, np.ndarray]:
    """The graph's outputs in its types, for `arrays` by its input names; `tap` sees every part's as they come."""
    chosen = _bucket(manifest, name, bucket)
    values = dict(arrays)
    with ExitStack() as sessions:

        def run(part: str) -> None:
            session = opener(manifest, part, chosen["name"])
            sessions.enter_context(closing(session))  # open to the end: parts of one context share a process
            graph = manifest.parts[part]["graphs"][chosen["name"]]
            made = session.run({spec["name"]: _take(values, spec, name) for spec in graph["inputs"]})
            values.update(made)
            if tap is not None:
                tap(part, made)

        run_schedule(Schedule.of_bucket(chosen), run)
    graphs = (manifest.parts[part]["graphs"][chosen["name"]] for part in chosen["parts"])
    stored = {spec["name"]: spec for graph in graphs for spec in graph["outputs"]}
    wanted = graph_outputs(manifest, name, chosen)
    return {(key := spec["name"]): leaving(spec, values[key], stored.get(key, spec)) for spec in wanted}


def _bucket(manifest: Manifest, name: str, bucket: str | None) -> Mapping[str, Any]:
    """The bucket of that name, or the first; E0953 for a language model."""
    entry = manifest.model(name)
    if entry["kind"] == "decoder":
        message = f"model `{name}` is a language model: it continues a text and takes no arrays"
        fail("E0953", message, help="give `--prompt TEXT` in place of `--inputs`")
    buckets = entry.get("buckets") or [{"name": "main", "parts": manifest.parts_of(name)}]
    return next(row for row in buckets if bucket in (None, row["name"]))


def _take(values: dict[str, np.ndarray], spec: dict[str, Any], model: str) -> np.ndarray:
    if spec["name"] not in values:
        fail("E0923", f"model `{model}` reads `{spec['name']}` ({described(spec)}), which is not given")
    array = values[spec["name"]]
    check_shape(f"`{spec['name']}` of model `{model}`", array, spec)
    return as_tensor(array, spec)


def _flat(made: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Outputs one by one: the tensors of a sequence `s` are `s.0`, `s.1`, …"""
    for name, one in made.items():
        yield from (
            [(f"{name}.{index}", array) for index, array in enumerate(one)] if isinstance(one, list) else [(name, one)]
        )


def _plain(array: np.ndarray) -> np.ndarray:
    """Texts as numpy stores them without pickling."""
    return array.astype(str) if array.dtype.kind == "O" else array


def _summary(array: np.ndarray | list[np.ndarray]) -> dict[str, Any]:
    """Type, shape, and least, largest and mean of what is a finite number; how many are none, if any."""
    if isinstance(array, list):
        return {"sequence": [_summary(one) for one in array]}
    told: dict[str, Any] = {"dtype": "string", "shape": list(array.shape), "min": None, "max": None, "mean": None}
    if array.dtype.kind == "O":
        return told
    told["dtype"] = array.dtype.name
    numbers = array.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    if finite.size:
        told |= {"min": float(finite.min()), "max": float(finite.max()), "mean": float(finite.mean())}
    lost = array.size - finite.size
    return told | ({"not_finite": lost} if lost else {})
