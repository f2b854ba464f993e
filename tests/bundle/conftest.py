"""A small bundle that follows the schema."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edgec.compiler.bundle.manifest import write_manifest
from edgec.compiler.bundle.write import write_bundle


def manifest_of_a_graph() -> dict[str, Any]:
    tensor = {"name": "x", "dtype": "float32", "shape": [1, "N"]}
    graph = {"graph": "main", "inputs": [tensor], "outputs": [{**tensor, "name": "y"}]}
    return {
        "plan": {"name": "p", "sha256": "0" * 64, "defines": {"ctx": 512}},
        "devices": [{"name": "host"}],
        "tools": {"edgec": "0"},
        "inputs": {"m": {"kind": "onnx", "source": "m.onnx", "files": {}}},
        "tokenizers": {},
        "models": {
            "m": {
                "role": "model",
                "kind": "graph",
                "engine": "chain",
                "deploy": {"device": "cpu", "target": "ort", "pipeline": None, "options": {}},
                "weights": [],
                "buckets": [{"name": "main", "tokens": None, "context": None, "parts": ["m.cpu0"]}],
            }
        },
        "parts": {
            "m.cpu0": {"model": "m", "device": "cpu", "target": "ort", "file": "m/cpu0.onnx", "graphs": {"main": graph}}
        },
        "speculation": None,
        "sampling": {},
        "memory": {"m": {"weights": 3, "kv": {}}},
        "libraries": [],
    }


def fill(directory: Path, content: str = "abc", **more: Any) -> None:
    (directory / "m").mkdir()
    (directory / "m" / "cpu0.onnx").write_text(content)
    (directory / "report.html").write_text("<p>" * 5000)
    write_manifest(directory, manifest_of_a_graph() | more)


@pytest.fixture
def data() -> dict[str, Any]:
    return manifest_of_a_graph()


@pytest.fixture
def make() -> Callable[..., None]:
    """`make(path, content="abc")` writes the small bundle to `path`."""
    return lambda path, content="abc": write_bundle(path, lambda scratch: fill(scratch, content))
