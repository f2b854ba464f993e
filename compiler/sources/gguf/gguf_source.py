"""`gguf("model.gguf")`: one file of llama.cpp's, its tokenizer and chat template inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..source import Outline, Source, describe_decoder

if TYPE_CHECKING:
    from ...ir.module import Module


class GgufSource(Source):
    """A decoder in a GGUF file. Its tokenizer is converted into the cache, never beside the user's file."""

    word: ClassVar[str] = "gguf"
    accepts: ClassVar = "file"
    takes: ClassVar[str] = "a GGUF file"

    def outline(self, path: Path) -> Outline:
        """Architecture and names from the header; a tokenizer that cannot be converted is an error too."""
        from .gguf_file import read_gguf
        from .gguf_tensors import find_gguf_tensors
        from .read_gguf_arch import read_gguf_arch
        from .text_files import check_text_files

        file = read_gguf(path)
        arch = read_gguf_arch(file)
        find_gguf_tensors(arch, file)
        check_text_files(file, arch.vocab)
        return Outline(arch, tuple(arch.node_names()), arch.weights())

    def load(self, name: str, path: Path, context: int) -> Module:
        """The decoder in the file `path`, its weights dequantised as they are read."""
        from .load_gguf import load_gguf

        return load_gguf(name, path, context)

    def tokenizer_folder(self, path: Path) -> Path:
        """A folder in the cache with the file's tokenizer and chat template as transformers writes them."""
        from .gguf_file import read_gguf
        from .text_files import text_files

        return text_files(read_gguf(path))

    def inspect(self, path: Path) -> dict[str, Any] | None:
        """Architecture, counts, names, and how many tensors there are of each ggml type."""
        if path.suffix != ".gguf" or not path.is_file():
            return None
        from collections import Counter

        from .gguf_file import read_gguf
        from .read_gguf_arch import read_gguf_arch

        file = read_gguf(path)
        types = Counter(tensor.type.name for tensor in file.tensors.values())
        return {**describe_decoder(read_gguf_arch(file)), "ggml_types": dict(types)}
