"""`onnx("file.onnx")`: any graph of standard ops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..source import Outline, Source

if TYPE_CHECKING:
    from ...ir.module import Module


@dataclass(frozen=True)
class OnnxSource(Source):
    """A graph in an ONNX file. Its names are the loader's, so that even a check has to load it."""

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of inputs, from the plan
    samples: tuple[Path, ...] = ()  # .npz files with inputs, from the plan

    word: ClassVar[str] = "onnx"
    accepts: ClassVar = "file"
    takes: ClassVar[str] = "an ONNX file"

    def outline(self, path: Path) -> Outline:
        """From the loaded graph: the names of unnamed nodes are the loader's."""
        from ...ir.linears import float_shapes

        module = self.load(path.stem, path, 0)
        nodes = tuple(node.name for node in module.main.graph.all_nodes() if node.name)
        return Outline(None, nodes, float_shapes(module))

    def load(self, name: str, path: Path, context: int) -> Module:
        """The graph in the file `path`."""
        from .given_samples import check_samples
        from .load_onnx import load_onnx

        module = load_onnx(name, path, context, self.shapes)
        module.samples = check_samples(module.main.graph, self.samples)
        return module

    def with_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> OnnxSource:
        """The same with shapes of inputs."""
        return replace(self, shapes=shapes)

    def with_samples(self, files: Sequence[Path]) -> OnnxSource:
        """The same with inputs for its models."""
        return replace(self, samples=tuple(files))

    def inspect(self, path: Path) -> dict[str, Any] | None:
        """Inputs, outputs, ops and node names of an `.onnx` file."""
        if path.suffix != ".onnx" or not path.is_file():
            return None
        from ...ir.annotations import counted
        from ...ir.linears import linears

        module = self.load(path.stem, path, 0)
        graph = module.main.graph
        return {
            "kind": "onnx",
            "opset": graph.opset_imports.get(""),
            "inputs": {value.name: f"{value.dtype} {value.shape}" for value in graph.inputs},
            "outputs": {value.name: f"{value.dtype} {value.shape}" for value in graph.outputs},
            "ops": dict(Counter(sorted(node.op_type for node in graph))),
            "linears": {row.name: list(row.shape) for row in linears(module)},
            "annotations": counted(module),
            "nodes": [node.name for node in graph],
        }
