"""`onnx("file.onnx")`: any graph of standard ops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...diagnostics.diagnostic import Diagnostic
from ..source import Outline, Source

if TYPE_CHECKING:
    from ...ir.module import Module


_CONFIGS = ("config.json", "generation_config.json")
_last: list[Any] = []  # the key, the module and why it is no decoder, of the file that was loaded last


def _facts(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files in a folder: a model's weights may lie in any of them."""
    found = ((one, one.stat()) for one in sorted(folder.iterdir()) if one.is_file())
    return [(one.name, facts.st_size, facts.st_mtime_ns) for one, facts in found]


def _text_folder(folder: Path) -> Path | None:
    from ..hf.convert_tokenizer import converted, old_files

    if not (folder / "tokenizer.json").is_file() and not old_files(folder):
        return None
    return converted(folder) or folder


def _stays_a_graph(path: Path, why: str) -> Diagnostic:
    message = f"`{path}` has a K/V cache and stays a graph as it was exported: {why}"
    help = 'leave out `context`, or give the model as its Hugging Face folder: `hf("folder")`'
    return Diagnostic("W0371", message, help=help, severity="warning")


@dataclass(frozen=True)
class OnnxSource(Source):
    """A graph in an ONNX file. Its names are the loader's, so that even a check has to load it."""

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of inputs, from the plan
    samples: tuple[Path, ...] = ()  # .npz files with inputs, from the plan
    context: int = 0  # that the plan gives; an exported decoder is taken for one where there is one

    word: ClassVar[str] = "onnx"
    accepts: ClassVar = "file"
    takes: ClassVar[str] = "an ONNX file"

    def outline(self, path: Path) -> Outline:
        """From the loaded graph: the names of unnamed nodes are the loader's."""
        from ...ir.linears import float_shapes

        module, declined = self._load(path.stem, path, self.context)
        warnings = () if declined is None else (_stays_a_graph(path, declined),)
        if module.arch is not None:
            return Outline(module.arch, tuple(module.arch.node_names()), module.arch.weights(), warnings)
        nodes = tuple(node.name for node in module.main.graph.all_nodes() if node.name)
        return Outline(None, nodes, float_shapes(module), warnings)

    def load(self, name: str, path: Path, context: int) -> Module:
        """The graph in the file `path`; with a `context` the decoder in it, where it is one that edgec builds."""
        return self._load(name, path, context)[0]

    def _load(self, name: str, path: Path, context: int) -> tuple[Module, str | None]:
        """A copy of what was loaded last where that is the same, as a check and a compile of one plan ask for."""
        key = (path, _facts(path.parent), context, sorted(self.shapes.items()), self.samples)
        if not _last or _last[0] != key:
            _last[:] = [key, *self._read(name, path, context)]
        _, module, declined = _last
        made = replace(module.clone(), name=name)
        for model in made.graphs.values():
            model.graph.name = name
        return made, declined

    def _read(self, name: str, path: Path, context: int) -> tuple[Module, str | None]:
        from .given_samples import check_samples
        from .load_onnx import load_onnx

        module = load_onnx(name, path, context, self.shapes)
        module.samples = check_samples(module.main.graph, self.samples)
        if not context or self.shapes or self.samples:
            return module, None
        from .decoder.load_decoder import as_decoder

        module, declined = as_decoder(module, path)
        if module.arch is not None:
            module.tokenizer_folder = _text_folder(path.parent)
        return module, declined

    def tokenizer_folder(self, path: Path) -> Path | None:
        """The file's own folder, where an exporter has put a tokenizer."""
        return _text_folder(path.parent) if self.context else None

    def hangs_on(self, path: Path) -> tuple[Sequence[Path], str]:
        """Samples, files that hold weights, and what an exporter writes beside a decoder; shapes and context."""
        from .load_onnx import external_files

        beside = [path.parent / name for name in _CONFIGS] if self.context else []
        files = [*self.samples, *external_files(path), *(one for one in beside if one.is_file())]
        return files, repr((sorted(self.shapes.items()), self.context))

    def with_context(self, context: int) -> OnnxSource:
        """The same for texts of `context` tokens."""
        return replace(self, context=context)

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
