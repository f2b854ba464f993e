"""Which stored tensor each tensor of an architecture is. Reads the checkpoint's headers and no weight.

arch.tensors(): name -> shape     matched with     read_checkpoint(folder): stored name -> file, offset, type, shape
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...diagnostics.diagnostic import fail
from ...ir.decoder_arch import DecoderArch
from .safetensors_index import StoredTensor, read_checkpoint

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
_PREFIX = "model."
_RECOMPUTED = ".rotary_emb.inv_freq"  # a buffer that old checkpoints store; the config says the same
_SHOWN = 3


def find_tensors(arch: DecoderArch, folder: Path) -> dict[str, StoredTensor]:
    """The stored tensor of each name of `arch`; what is missing, extra, of another shape or type is an error.

    A tied checkpoint may store its head as well: then `lm_head.weight` is among them.
    """
    stored = {name.removeprefix(_PREFIX): tensor for name, tensor in read_checkpoint(folder).items()}
    needed = arch.tensors()
    missing = [name for name in needed if name not in stored]
    if missing:
        hint = None
        if missing == [HEAD]:
            hint = "if the head shares the embedding, config.json has to say `tie_word_embeddings`"
        fail("E0343", f"the checkpoint in `{folder}` lacks {_listed(missing)}", help=hint)
    copied = {HEAD} if arch.tied else set()
    extra = [name for name in stored if name not in needed and name not in copied and not name.endswith(_RECOMPUTED)]
    if extra:
        files = ", ".join(sorted({f"`{stored[name].file.path.name}`" for name in extra}))
        message = f"the checkpoint in `{folder}` has tensors that a {arch.family} of this config does not use"
        fail("E0344", f"{message}: {_listed(extra, stored)} in {files}")
    for name, shape in needed.items():
        _check(stored[name], shape)
    return {name: stored[name] for name in (*needed, *copied) if name in stored}


def _check(stored: StoredTensor, shape: tuple[int, ...]) -> None:
    if stored.shape != shape:
        message = f"tensor `{stored.name}` in `{stored.file.path}` has shape {list(stored.shape)}"
        fail("E0345", f"{message}, config.json asks for {list(shape)}")
    stored.check_type()


def _listed(names: list[str], stored: Mapping[str, StoredTensor] | None = None) -> str:
    shown = [f"`{stored[name].name if stored else name}`" for name in names[:_SHOWN]]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shown) + more
