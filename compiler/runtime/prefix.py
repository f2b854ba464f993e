"""A text's K/V cache in a file, so that prompts which begin alike compute the beginning once.

    FILE   a safetensors file: <model>/<cache tensor> [G, positions, D] of every model that keeps its cache here
           metadata: the tokens, and sha256 of them and all tensors; per model what its cache depends on

A file is used for the models it was made from alone: the same weights, layouts and types, told by a digest. One that is
cut, changed or of something else is refused, never used in part.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..bundle.manifest import Manifest
from ..diagnostics.diagnostic import fail
from .chain import ChainModel

_FORMAT = "edgec.prefix.1"
_ANEW = "remove the file: the next run writes it anew"


def common(tokens: Sequence[int], prompt: Sequence[int]) -> int:
    """How many tokens of a prompt the saved ones stand for; the last one is always left to be computed."""
    most = min(len(tokens), len(prompt) - 1)
    return next((at for at in range(most) if tokens[at] != prompt[at]), max(most, 0))


def save(path: Path, manifest: Manifest, models: Mapping[str, ChainModel], tokens: Sequence[int]) -> None:
    """Write the caches of `models`, each of which holds the K/V of `tokens`; E0925 if it cannot be written."""
    from safetensors.numpy import save_file

    arrays = {
        f"{name}/{tensor}": np.ascontiguousarray(array)
        for name, model in models.items()
        for tensor, array in model.cache.saved(len(tokens)).items()
    }
    facts = {
        "format": _FORMAT,
        "tokens": json.dumps(list(tokens)),
        "models": json.dumps({name: digest_of(manifest, name) for name in models}),
        "sha256": _digest(tokens, arrays),
    }
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(arrays, beside, metadata=facts)
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        fail("E0925", f"`{path}` cannot be written: {error.strerror}", help="name a file in a folder that is there")


def load(path: Path, manifest: Manifest, models: Mapping[str, ChainModel], prompt: Sequence[int]) -> int:
    """Fill the caches of `models` with what the file holds of the beginning of `prompt`; how many tokens that is.

    E0925 for no such file, one that is damaged, or one of other models.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            facts = file.metadata() or {}
            models = _made_from(path, facts, manifest, models)
            wanted = {f"{name}/{kv}": form for name, one in models.items() for kv, form in one.cache.forms().items()}
            tokens = _tokens(facts)
            if tokens is None or not wanted.keys() <= set(file.keys()):
                _damaged(path)
            for name, (shape, _) in wanted.items():
                if file.get_slice(name).get_shape() != [shape[0], len(tokens), shape[1]]:
                    _damaged(path)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except SafetensorError:
        _damaged(path)
    except OSError as error:
        fail("E0925", f"`{path}` cannot be read: {error.strerror or error}", help=_ANEW)
    if any(arrays[name].dtype != dtype for name, (_, dtype) in wanted.items()):
        _damaged(path)
    if _digest(tokens, arrays) != facts.get("sha256"):
        _damaged(path)
    count = common(tokens, prompt)
    for name, model in models.items():
        model.cache.restore({tensor: arrays[f"{name}/{tensor}"] for tensor in model.cache.axes}, count)
    return count


def digest_of(manifest: Manifest, model: str) -> str:
    """What the K/V of a text depends on: the model's parts and their files, its sizes, the layout of its cache."""
    entry = manifest.model(model)
    parts = {name: manifest.parts[name] for name in manifest.parts_of(model)}
    files = {name: row["sha256"] for name, row in manifest.files.items() if name.startswith(f"{model}/")}
    told = {"arch": entry["arch"], "kv": entry["kv"], "parts": parts, "files": files}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _made_from(
    path: Path, facts: Mapping[str, str], manifest: Manifest, models: Mapping[str, ChainModel]
) -> dict[str, ChainModel]:
    """Those of `models` that the file holds the cache of, the first of them at least; E0925 if it is of others."""
    if facts.get("format") != _FORMAT:
        fail("E0925", f"`{path}` is no prefix that `edgec run --prefix` saved", help="name another file, or remove it")
    try:
        made = json.loads(facts.get("models", ""))
    except ValueError:
        _damaged(path)
    known = {name: digest_of(manifest, name) for name, entry in manifest.models.items() if "arch" in entry}
    if not isinstance(made, dict) or next(iter(models)) not in made or not made.items() <= known.items():
        message = f"`{path}` was saved with other models than this bundle's: other weights, formats, layouts or buckets"
        fail("E0925", message, help=f"use a file for each bundle; or {_ANEW}")
    return {name: model for name, model in models.items() if name in made}


def _tokens(facts: Mapping[str, str]) -> list[int] | None:
    try:
        found = json.loads(facts.get("tokens", ""))
    except ValueError:
        return None
    whole = isinstance(found, list) and found and all(type(token) is int for token in found)
    return found if whole else None


def _digest(tokens: Sequence[int], arrays: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(list(tokens)).encode())
    for name in sorted(arrays):
        digest.update(f"\0{name} {arrays[name].dtype} {arrays[name].shape}\0".encode())
        digest.update(np.ascontiguousarray(arrays[name]).view(np.uint8).data)
    return digest.hexdigest()


def _damaged(path: Path) -> NoReturn:
    fail("E0925", f"`{path}` is damaged: it does not hold what was saved", help=_ANEW)
