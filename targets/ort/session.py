"""One emitted graph in ONNX Runtime on this machine's CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...compiler.diagnostics.diagnostic import Diagnostic, EngineError, fail
from ...compiler.diagnostics.warn import warn
from ...compiler.emit.graph_in_child import GraphInChild
from ...compiler.kernels.build import library
from ...compiler.kernels.shapes import Shape, read_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

WORKER = "edgec.targets.ort.worker"
FAST = "all"  # ONNX Runtime may rewrite the graph
EXACT = "none"  # it must not: its rewrite of DequantizeLinear + MatMul was found far off
PLAIN = "plain"  # nor are its own ops used: they are replaced by what they stand for
_told = False  # that there are no kernels


class OrtGraph:
    """A graph, open; inputs that it does not have are ignored."""

    def __init__(self, path: Path, level: str, libraries: Sequence[str] = ()) -> None:
        from ...compiler.ir.onnx_runtime import session

        self._name = path.name
        try:
            self._session = session(str(path), optimise=level == FAST, libraries=libraries)
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
        return {name: _arrays(one) for name, one in zip(self._outputs, made, strict=True)}

    def close(self) -> None:
        """Free the session."""
        del self._session


def _arrays(made: Any) -> Any:
    """An array, or the list of them that a sequence is: its tensors may differ in size."""
    return [np.asarray(one) for one in made] if isinstance(made, list) else np.asarray(made)


def run_alone(model: ir.Model, level: str, feeds: dict[str, np.ndarray], libraries: Sequence[str] = ()) -> np.ndarray:
    """The one output of a graph that is held in memory."""
    import onnx_ir as ir

    from ...compiler.ir.onnx_runtime import session

    opened = session(ir.to_proto(model).SerializeToString(), level == FAST, libraries)
    return np.asarray(opened.run(None, feeds)[0])


class PlainGraph:
    """A graph whose linears are float32 matrices again, made of what the file holds; read and run by rows if large."""

    def __init__(self, path: Path) -> None:
        from .plain import plain

        self._model = plain(path)

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        from ...compiler.oracle import oracle

        names = {value.name for value in self._model.graph.inputs}
        return oracle.run(self._model, {name: array for name, array in feeds.items() if name in names})


class BundledGraph(GraphInChild):
    """A graph of a bundle that may come from anywhere; all graphs of one bundle share a process."""

    def __init__(self, path: Path, level: str, bundle: Path, what: str, libraries: Sequence[str] = ()) -> None:
        words = {"path": str(path.absolute()), "level": level, "libraries": list(libraries)}
        super().__init__(WORKER, str(bundle), path.parent, what, "load", **words)


def open_graph(bundle: Path, part: dict[str, Any], bucket: str) -> BundledGraph:
    """The graph that `part` (a manifest entry) has for `bucket`, with the optimisation it was checked under."""
    details = part.get("details", {})
    level = details.get("optimisation", EXACT)
    libraries = kernels(details.get("lookup"), read_shapes(details.get("specialised")))
    return _open(bundle, part, bucket, EXACT if level != FAST else FAST, libraries)


def open_reference(bundle: Path, part: dict[str, Any], bucket: str) -> BundledGraph:
    """The same graph without ONNX Runtime's own ops and without optimisation."""
    return _open(bundle, part, bucket, PLAIN)


def kernels(lookup: str | None, shapes: tuple[Shape, ...] = ()) -> list[str]:
    """The library of custom ops for linears by lookup (how their tables are held; None: there are none), built of
    edgec's own sources and specialised for `shapes`. Where it cannot be built the ops' bodies run instead.
    """
    if not lookup:
        return []
    built = library(shapes)
    if built.path is None and shapes:  # a compiler that took too long
        built = library()
    if built.path is not None:
        return [str(built.path)]
    global _told
    if not _told:
        _told = True
        message = f"linears by table lookup run as standard ops, which is slow: {built.reason}"
        warn(Diagnostic("W0840", message, help=built.help, severity="warning"))
    return []


def _open(bundle: Path, part: dict[str, Any], bucket: str, level: str, libraries: Sequence[str] = ()) -> BundledGraph:
    graph = part["graphs"][bucket]
    what = f"ONNX Runtime running `{part.get('name', graph['graph'])}`, bucket `{bucket}`"
    return BundledGraph(bundle / graph.get("file", part["file"]), level, bundle, what, libraries)
