"""Hold a part's manifest entry against its context binary: graphs, tensors, types, shapes, and the weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...compiler.diagnostics.diagnostic import EngineError
from .htp.chip import Chip
from .htp.context_binary import GraphSpec, TensorSpec, compare, read
from .htp.engine_options import option_rows
from .twins import read_back


def weights_read_back(bundle: Path, part: dict[str, Any]) -> tuple[dict[str, int] | None, list[str]]:
    """How many bytes of the weights the binary holds as the manifest's graphs have them, and what is otherwise."""
    try:
        read, wrong = read_back(bundle, part)
    except EngineError as error:
        return None, [diagnostic.message for diagnostic in error.diagnostics]
    return None if read is None else {"bytes": read.bytes, "of": read.of}, [wrong] if wrong else []


def verify_part(bundle: Path, part: dict[str, Any]) -> list[str]:
    """What the binary lacks or has otherwise; graphs of other parts in the same binary are no concern."""
    path = bundle / part["file"]
    asked = part["details"]["chip"]["soc_model"]
    try:
        info = read(path, soc_model=asked)
    except EngineError as error:
        return [diagnostic.message for diagnostic in error.diagnostics]
    expected = {
        graph["graph"]: GraphSpec(_specs(graph["inputs"]), _specs(graph["outputs"]))
        for graph in part["graphs"].values()
    }
    graphs = {name: spec for name, spec in info.graphs.items() if name in expected}
    own = replace(info, graphs=graphs)
    problems = [f"`{path.name}`: {problem}" for problem in compare(own, expected)]
    if info.soc_model != asked:
        problems.append(f"`{path.name}` is for SoC {info.soc_model}, the manifest says {asked}")
    stated = part["details"].get("options", [])  # absent in bundles of before they were kept
    found = {row["option"]: row["found"] for row in option_rows(Chip(**part["details"]["chip"]), info, False)}
    for row in stated:
        if found.get(row["option"]) != row["found"]:
            message = f"`{row['option']}` is {found.get(row['option'])}, the manifest says {row['found']}"
            problems.append(f"`{path.name}`: {message}")
    return problems


def _specs(tensors: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"])) for spec in tensors)
