"""`hf("folder")`: a Hugging Face checkpoint, config.json beside *.safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..source import Outline, Source, describe_decoder

if TYPE_CHECKING:
    from ...ir.module import Module

_TEXT = (
    "config.json",
    "quantize_config.json",
    "quant_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


class HfSource(Source):
    """A decoder in a Hugging Face folder; its graph is built from config.json, its weights stay in their files."""

    word: ClassVar[str] = "hf"
    accepts: ClassVar = "folder"
    takes: ClassVar[str] = "the folder that holds config.json and the *.safetensors files"

    def outline(self, path: Path) -> Outline:
        """From config.json and the headers of the checkpoint; each tensor the config implies has to be there."""
        from .checkpoint import find_tensors
        from .folder import left_out, refuse_other_folders
        from .read_decoder_arch import read_arch

        refuse_other_folders(path)
        arch = read_arch(path)
        find_tensors(arch, path)
        return Outline(arch, tuple(arch.node_names()), arch.weights(), left_out(path))

    def load(self, name: str, path: Path, context: int) -> Module:
        """The decoder in the folder `path`."""
        from .load_hf import load_hf

        return load_hf(name, path, context)

    def files(self, path: Path) -> list[Path]:
        """Configuration, tokenizer and weights; other files in the folder are none of the model's."""
        found = [path / name for name in _TEXT if (path / name).is_file()]
        weights = [*sorted(path.glob("*.safetensors")), *sorted(path.glob("*.safetensors.index.json"))]
        return found + [file for file in weights if file.is_file()]

    def tokenizer_folder(self, path: Path) -> Path:
        """The model's own folder; with older tokenizer files, that of the tokenizer.json made from them."""
        from .convert_tokenizer import converted

        return converted(path) or path

    def inspect(self, path: Path) -> dict[str, Any] | None:
        """Architecture, linears and node names of a folder that holds config.json; how many linears are integers."""
        if not (path / "config.json").is_file():
            return None
        from collections import Counter

        from .checkpoint import find_tensors
        from .quantised.parts import QuantisedTensor
        from .read_decoder_arch import read_arch

        arch = read_arch(path)
        described = describe_decoder(arch)
        if not sorted(path.glob("*.safetensors")):
            return described
        found = (one for one in find_tensors(arch, path).values() if isinstance(one, QuantisedTensor))
        integers = Counter(one.scheme.name + (" in act-order" if one.act_order else "") for one in found)
        return {**described, "integers": dict(integers)} if integers else described
