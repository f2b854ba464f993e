"""What a source is: one word of the plan language (`hf("folder")`, `onnx("file.onnx")`) and how its models are read.

    check    outline(path)   names, shapes and architecture; of a checkpoint no weight is read
    compile  load(path)      the module at level `semantic`; files(path) go into the manifest with their hashes
    verify   find(path, …)   where the files that a manifest lists are, to load the float model again

Sources arrive through the entry points of the group `edgec.sources`, the built-in ones too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..diagnostics.diagnostic import Diagnostic, fail

if TYPE_CHECKING:
    from ..ir.decoder_arch import DecoderArch
    from ..ir.module import Module


@dataclass(frozen=True)
class Outline:
    """What is known of a model before a weight is read.

    arch     the decoder's architecture, None for a plain graph
    nodes    the names that `on` and `except` of a plan match, as the loaded module has them
    weights  linears, convolutions and embeddings with float weights: node name -> [N, K]
    warnings what the model's files ask for and edgec leaves out; their place in the plan is added by the caller
    """

    arch: DecoderArch | None = None
    nodes: tuple[str, ...] = ()
    weights: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    warnings: Sequence[Diagnostic] = ()


class Source:
    """Base of all sources. One instance serves any number of models; it holds no state.

    A subclass states `word`, `accepts` and `takes`, and defines `outline` and `load`. Mistakes in the model's files
    are raised as `PlanError`; the place in the plan is added by the caller. Importing the subclass must not import
    numpy, onnx or another heavy library: `edgec check` has to answer within 0.3 s.
    """

    word: ClassVar[str]  # the name in a plan: `hf`
    accepts: ClassVar[Literal["file", "folder"]]
    takes: ClassVar[str]  # what the path leads to, for messages: "the folder that holds config.json"

    def outline(self, path: Path) -> Outline:
        """Names, shapes and architecture of the model at `path`; PlanError when the model cannot be used."""
        raise NotImplementedError(f"source `{self.word}` cannot be checked")

    def load(self, name: str, path: Path, context: int) -> Module:
        """The model at `path` as a module called `name`, its weights lazy; `context` in tokens, 0 for plain graphs."""
        raise NotImplementedError(f"source `{self.word}` cannot be loaded")

    def with_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> Source:
        """A source like this whose models have inputs of these shapes; E0378 where inputs have no open dimensions."""
        message = f"models of `{self.word}` have no inputs whose shapes a plan could give"
        fail("E0378", message, help="leave out `shapes`; a decoder gets its sizes from `bucket`")

    def with_samples(self, files: Sequence[Path]) -> Source:
        """A source like this whose modules carry the inputs in `files` (.npz); E0379 where models take no arrays."""
        message = f"models of `{self.word}` read texts: they take no arrays of a `sample`"
        fail("E0379", message, help='leave out `sample`; `calibration { text = "…" }` gives texts')

    def with_context(self, context: int) -> Source:
        """A source like this whose models are for texts of `context` tokens; 0 where the plan says none."""
        return self

    def files(self, path: Path) -> Sequence[Path]:
        """Every file the model at `path` consists of; name, size and hash of each go into the manifest."""
        return [path]

    def hangs_on(self, path: Path) -> tuple[Sequence[Path], str]:
        """What a module hangs on besides `files`: more files, and what the plan says of the model, in words.

        Results that are kept are known by it.
        """
        return (), ""

    def find(self, path: Path, name: str) -> Path:
        """Where the file that a manifest lists as `name` would be, for a model at `path`."""
        return path if self.accepts == "file" else path / name

    def tokenizer_folder(self, path: Path) -> Path | None:
        """The folder of tokenizer.json, tokenizer_config.json, generation_config.json and chat_template.jinja.

        None: models of this source have no tokenizer. The files themselves may be absent.
        """
        return None

    def inspect(self, path: Path) -> dict[str, Any] | None:
        """Describe the model at `path` as plain JSON values; None if `path` is not of this source."""
        return None


def check_context(arch: DecoderArch, context: int, path: Path) -> None:
    """Refuse a context beyond the positions the decoder was trained on: its text would make no sense."""
    if context > arch.max_positions and arch.rope.kind == "longrope":
        message = f"context {context} is beyond the first {arch.max_positions} positions of `{path}`"
        message += ", where longrope changes its frequencies: a graph compiled ahead of time cannot follow"
        fail("E0334", message, help=f"set `context` to at most {arch.max_positions}")
    if context > arch.max_positions:
        message = f"context {context} is longer than the {arch.max_positions} positions that `{path}` is made for"
        fail("E0338", message, help=f"set `context` to at most {arch.max_positions}")


def describe_decoder(arch: DecoderArch) -> dict[str, Any]:
    """What `edgec inspect` prints of a decoder: its architecture, counts and names, as plain JSON values."""
    from dataclasses import asdict
    from math import prod

    return {
        "kind": "model",
        "arch": asdict(arch),
        "parameters": sum(prod(shape) for shape in arch.tensors().values()),
        "linears": {name: list(shape) for name, shape in arch.linears().items()},
        "nodes": arch.node_names(),
    }
