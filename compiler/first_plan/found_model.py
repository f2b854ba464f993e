"""What `edgec init` was given: a folder, a file, or a Hub id, and which source reads it.

path -> source that knows it -> outline (architecture, names; no weight is read)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..diagnostics.diagnostic import fail
from ..registry import sources

if TYPE_CHECKING:
    from ..ir.decoder_arch import DecoderArch
    from ..sources.source import Source

_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FLOATS = {"F32", "F16", "BF16", "F64"}  # of a GGUF's types
_FILES = (".gguf", ".onnx")  # looked for in a folder that is no model itself


@dataclass(frozen=True)
class FoundModel:
    """A model on this disk; `arch` is None for a plain graph. `stored`: some of its weights are integers already."""

    path: Path
    source: Source
    arch: DecoderArch | None
    stored: bool = False

    @property
    def word(self) -> str:
        """How a plan names its source: `hf`, `gguf`, `onnx`."""
        return self.source.word

    @property
    def reads_text(self) -> bool:
        """Whether it is a language model whose tokenizer is there."""
        folder = self.source.tokenizer_folder(self.path) if self.arch is not None else None
        return folder is not None and (folder / "tokenizer.json").is_file()


def find_model(text: str) -> FoundModel:
    """The model that `text` leads to; E0980 if none is there, and what its source says of one that cannot be used."""
    path = Path(text)
    if not path.exists():
        _missing(text)
    path = _inside(path) if path.is_dir() and not (path / "config.json").is_file() else path
    kind = "folder" if path.is_dir() else "file"
    for source in (cls() for cls in sources().values()):
        if source.accepts == kind and (facts := source.inspect(path)) is not None:
            return FoundModel(path, source, source.outline(path).arch, _stored(facts))
    fail("E0980", f"`{path}` is no model that edgec reads", help=_beside(path))


def _beside(path: Path) -> str:
    """What to give instead: the folder that a file of a model lies in, the models that lie in a folder."""
    if path.is_file() and (path.parent / "config.json").is_file():
        return f"a Hugging Face model is its folder: `edgec init {path.parent}`"
    inside = sorted(one.parent for one in path.glob("*/config.json")) if path.is_dir() else []
    if inside:
        return f"name one of the models in it: `edgec init {inside[0]}`"
    return "give a Hugging Face folder with config.json, a .gguf or an .onnx file (docs/models.md)"


def _stored(facts: Mapping[str, Any]) -> bool:
    return bool(facts.get("integers")) or bool(set(facts.get("ggml_types", ())) - _FLOATS)


def _missing(text: str) -> NoReturn:
    if _HUB.fullmatch(text) and Path(text).suffix not in _FILES:
        folder = f"models/{text.rpartition('/')[2].lower()}"
        help = f"if it is the id of a Hub model: `hf download {text} --local-dir {folder}`, then `edgec init {folder}`"
        fail("E0980", f"there is no folder `{text}`, and edgec downloads no models", help=help)
    fail("E0980", f"`{text}` does not exist", help="give a Hugging Face folder, a .gguf or an .onnx file")


def _inside(folder: Path) -> Path:
    """The one model file in a folder without a config.json; the folder itself where there is none."""
    held = sorted(path for path in folder.iterdir() if path.suffix in _FILES and path.is_file())
    if len(held) > 1:
        shown = ", ".join(f"`{path.name}`" for path in held[:6])
        fail("E0980", f"`{folder}` holds {len(held)} model files: {shown}", help=f"name one: `edgec init {held[0]}`")
    return held[0] if held else folder
