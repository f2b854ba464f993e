"""One emitted graph in ONNX Runtime on this machine's CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ...compiler.diagnostics.diagnostic import EngineError, fail

FAST = "all"  # ONNX Runtime may rewrite the graph
EXACT = "none"  # it must not: its rewrite of DequantizeLinear + MatMul was found far off


class OrtGraph:
    """A graph, open; inputs that it does not have are ignored."""

    def __init__(self, path: Path, level: str) -> None:
        from ...compiler.oracle.onnx_runtime import session

        self._name = path.name
        try:
            self._session = session(str(path), optimise=level == FAST)
        except Exception as error:  # the engine raises types of its own for each kind of refusal
            fail("E0803", f"ONNX Runtime refuses `{self._name}`: {error}", kind=EngineError)
        self._inputs = {given.name for given in self._session.get_inputs()}
        self._outputs = [made.name for made in self._session.get_outputs()]

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; `feeds` has at least the inputs. ValueError if one is missing, E0803 if the engine fails."""
        missing = self._inputs - feeds.keys()
        if missing:
            raise ValueError(f"`{self._name}` wants {', '.join(sorted(missing))}")
        try:
            made = self._session.run(self._outputs, {name: feeds[name] for name in self._inputs})
        except Exception as error:  # as above
            fail("E0803", f"ONNX Runtime fails in `{self._name}`: {error}", kind=EngineError)
        return {name: np.asarray(array) for name, array in zip(self._outputs, made, strict=True)}

    def close(self) -> None:
        """Free the session."""
        del self._session


def run_alone(model: ir.Model, level: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The one output of a graph that is held in memory."""
    from ...compiler.oracle.onnx_runtime import session

    opened = session(ir.to_proto(model).SerializeToString(), level == FAST)
    return np.asarray(opened.run(None, feeds)[0])


def open_graph(bundle: Path, part: dict[str, Any], bucket: str) -> OrtGraph:
    """The graph that `part` (a manifest entry) has for `bucket`, with the optimisation it was checked under."""
    graph = part["graphs"][bucket]
    return OrtGraph(bundle / graph.get("file", part["file"]), part.get("details", {}).get("optimisation", EXACT))
