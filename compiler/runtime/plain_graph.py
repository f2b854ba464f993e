"""Run a model that is a plain graph once: arrays from an .npz file in, an .npz file out."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.file_hashes import check_files
from ..bundle.manifest import Manifest, load_manifest
from ..bundle.schedule import Schedule
from ..diagnostics.diagnostic import fail
from ..files.plain_file import open_plain
from ..packed.packed_bundle import runnable
from .chain import Opener
from .decoder_inputs import as_tensor
from .engines import open_graph, open_oracle
from .generate import choose_model
from .on_device import for_device
from .run_schedule import run_schedule

Tap = Callable[[str, Mapping[str, np.ndarray]], None]  # part, its outputs


def run_graph(
    bundle: Path | str,
    inputs: Path | str,
    outputs: Path | str | None = None,
    model: str | None = None,
    oracle: bool = False,
    device: str | None = None,
) -> dict[str, Any]:
    """Outputs by name with dtype, shape and range; written to `outputs` (.npz) if given.

    `oracle`: in ONNX Runtime where a part's own engine is slow on this machine. `device`: as for
    `run_bundle`.
    """
    manifest = for_device(runnable(load_manifest(Path(bundle))), device)
    check_files(manifest)
    name = choose_model(manifest, model)
    made = run_parts(manifest, name, read_arrays(Path(inputs)), opener=open_oracle if oracle else open_graph)
    if outputs is not None:
        with Path(outputs).open("wb") as file:
            np.savez(file, **{name: _plain(array) for name, array in made.items()})  # pyright: ignore[reportArgumentType] - its keywords are arrays
    return {"model": name, "outputs": {key: _summary(array) for key, array in made.items()}}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; nothing pickled is accepted."""
    try:
        with open_plain(path) as opened, np.load(opened, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            return {name: file[name] for name in file.files}
    except OSError as error:
        fail("E0922", f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}")
    except (ValueError, EOFError, zipfile.BadZipFile):
        fail("E0922", f"`{path}` is not an .npz file of plain arrays", help="write it with `numpy.savez`")


def run_parts(
    manifest: Manifest,
    name: str,
    arrays: Mapping[str, np.ndarray],
    bucket: str | None = None,
    tap: Tap | None = None,
    opener: Opener = open_graph,
) -> dict[str, np.ndarray]:
    """What no part reads of the outputs, for `arrays` by the graph's input names; `tap` sees every part's outputs."""
    entry = manifest.model(name)
    if entry["kind"] == "decoder":
        message = f"model `{name}` is a language model: it continues a text and takes no arrays"
        fail("E0953", message, help="give `--prompt TEXT` in place of `--inputs`")
    buckets = entry.get("buckets") or [{"name": "main", "parts": manifest.parts_of(name)}]
    chosen = next(row for row in buckets if bucket in (None, row["name"]))
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
    return {key: values[key] for key in graph_outputs(manifest, chosen)}


def graph_outputs(manifest: Manifest, bucket: Mapping[str, Any]) -> list[str]:
    """What the parts make and none of them reads."""
    graphs = [manifest.parts[part]["graphs"][bucket["name"]] for part in bucket["parts"]]
    read = {spec["name"] for graph in graphs for spec in graph["inputs"]}
    return [spec["name"] for graph in graphs for spec in graph["outputs"] if spec["name"] not in read]


def _take(values: dict[str, np.ndarray], spec: dict[str, Any], model: str) -> np.ndarray:
    if spec["name"] not in values:
        shape = "x".join(str(size) for size in spec["shape"])
        fail("E0923", f"model `{model}` reads `{spec['name']}` ({spec['dtype']} {shape}), which the file lacks")
    array = values[spec["name"]]
    fixed = [(have, size) for have, size in zip(array.shape, spec["shape"], strict=False) if isinstance(size, int)]
    if array.ndim != len(spec["shape"]) or any(have != size for have, size in fixed):
        wanted = "x".join(str(size) for size in spec["shape"])
        have = "x".join(str(size) for size in array.shape)
        fail("E0923", f"`{spec['name']}` of model `{model}` has the shape {wanted}, the array given {have}")
    return as_tensor(array, spec)


def _plain(array: np.ndarray) -> np.ndarray:
    """Texts as numpy stores them without pickling."""
    return array.astype(str) if array.dtype.kind == "O" else array


def _summary(array: np.ndarray) -> dict[str, Any]:
    if array.dtype.kind == "O":
        return {"dtype": "string", "shape": list(array.shape), "min": None, "max": None, "mean": None}
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "min": float(array.min()) if array.size else None,
        "max": float(array.max()) if array.size else None,
        "mean": float(array.mean()) if array.size else None,
    }
