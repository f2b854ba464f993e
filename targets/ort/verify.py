"""Hold a part's manifest entry against its ONNX files: inputs and outputs by name, type and shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from ...compiler.bundle.manifest import dtype_name


def verify_part(bundle: Path, part: dict[str, Any]) -> list[str]:
    """What the files have otherwise than the manifest says; weights are not read."""
    problems = []
    for bucket, entry in part["graphs"].items():
        name = entry.get("file", part["file"])
        try:
            graph = ir.load(bundle / name).graph
        except Exception as error:  # a damaged protobuf raises types of its own
            problems.append(f"graph `{bucket}`: `{name}` is not a readable ONNX file ({type(error).__name__})")
            continue
        for side, values in (("inputs", graph.inputs), ("outputs", graph.outputs)):
            have = {value.name or "": _describe(value) for value in values}
            want = {spec["name"]: f"{spec['dtype']} {spec['shape']}" for spec in entry[side]}
            for key in sorted(have.keys() | want.keys()):
                if have.get(key) != want.get(key):
                    told = f"{have.get(key, 'absent')}, the manifest says {want.get(key, 'absent')}"
                    problems.append(f"graph `{bucket}`: {side[:-1]} `{key}` of `{name}` is {told}")
    return problems


def _describe(value: ir.Value) -> str:
    shape = [] if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape]
    return f"{dtype_name(value.dtype or ir.DataType.FLOAT)} {shape}"
