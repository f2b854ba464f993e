"""One emitted graph in ONNX Runtime, and what a file says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime
from edgec.api import EngineError, fail

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

MARK = "edgec_plain.model"  # key in a file's metadata: which model it was written for


class PlainGraph:
    """A graph, open. What it does not read of `feeds` is ignored."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # the numbers that ship
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        except Exception as error:  # the engine raises types of its own for each kind of refusal
            fail("PLAIN03", f"ONNX Runtime refuses `{path.name}`: {error}", kind=EngineError)

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; ValueError if `feeds` lacks an input."""
        names = [given.name for given in self._session.get_inputs()]
        if missing := [name for name in names if name not in feeds]:
            raise ValueError(f"the graph reads {', '.join(missing)}")
        outputs = [made.name for made in self._session.get_outputs()]
        return dict(zip(outputs, self._session.run(outputs, {name: feeds[name] for name in names}), strict=True))

    def close(self) -> None:
        """Free the session."""
        del self._session


def problems(bundle: Path, part: dict[str, Any]) -> list[str]:
    """What the files of a part's manifest entry have otherwise than the entry says; weights are not read."""
    found = []
    for bucket, entry in part["graphs"].items():
        graph = onnx.load(bundle / entry["file"], load_external_data=False).graph
        for side, values in (("inputs", graph.input), ("outputs", graph.output)):
            have, want = [value.name for value in values], [spec["name"] for spec in entry[side]]
            if have != want:
                found.append(f"graph `{bucket}`: the {side} of `{entry['file']}` are {', '.join(have)}")
    return found


def describe(path: Path) -> dict[str, Any] | None:
    """The facts `edgec inspect` prints of a file that this target wrote; None for any other ONNX file."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # no ONNX file: another target's, or nobody's
        return None
    mark = next((row.value for row in model.metadata_props if row.key == MARK), None)
    if mark is None:
        return None
    return {"kind": "plain", "model": mark, "nodes": len(model.graph.node), "opset": model.opset_import[0].version}
