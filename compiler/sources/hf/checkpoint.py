"""Which stored tensor each tensor of an architecture is. Reads the checkpoint's headers and no weight.

arch.tensors(): name -> shape     matched with     read_checkpoint(folder): stored name -> file, offset, type, shape

A linear of a quantised checkpoint is several tensors (`quantised/`). Which linears are, the tensors themselves tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...diagnostics.diagnostic import fail
from ...diagnostics.wording import quoted, some_of
from ...ir.decoder_arch import DecoderArch
from ..fused import split
from .config_file import Config, read_json
from .families import FAMILIES
from .quantised.parts import SUFFIXES, QuantisedTensor, is_quantised, quantised_tensor
from .quantised.read_scheme import read_quantised
from .quantised.refusals import refuse_unstated
from .quantised.scheme import Quantised
from .safetensors_index import StoredTensor, read_checkpoint

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
_PREFIX = "model."
_WRAPPERS = {  # what stands before names -> whose it is, and the way out
    "base_model.model.": "peft's: merge the adapter with `merge_and_unload()` and save that",
    "_orig_mod.": "torch.compile's: save the model as it was before",
    "module.": "DataParallel's: save `model.module`",
    "language_model.": "a multimodal model's: save its language model alone",
    "model.language_model.": "a multimodal model's: save its language model alone",
    "transformer.": "another family's",
}
_RECOMPUTED = "rotary_emb.inv_freq"  # a buffer that old checkpoints store; the config says the same
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
_SHOWN = 3

Found = dict[str, StoredTensor | QuantisedTensor]


def find_tensors(arch: DecoderArch, folder: Path) -> Found:
    """The tensors that `arch` needs as they are stored; what is missing, extra, of another shape or type is an error.

    Names are those of `arch`, but for linears that are stored as one (`Family.fused`). A tied checkpoint may store its
    head as well: then `lm_head.weight` is among them.
    """
    stored = _without_prefix(read_checkpoint(folder), folder)
    path = folder / "config.json"
    quantised = read_quantised(folder, Config(read_json(path), path))
    if quantised is None:
        refuse_unstated(stored, folder)
    integers = {} if quantised is None else _integers(arch, stored, quantised)
    needed, _ = split(arch.tensors(), FAMILIES[arch.family].fused)
    missing = [name for name in needed if name not in stored and name not in integers]
    if missing:
        hint = _prefix_hint(missing[0], stored)
        if missing == [HEAD]:
            hint = "if the head shares the embedding, config.json has to say `tie_word_embeddings`"
        fail("E0343", f"the checkpoint in `{folder}` lacks {_listed(missing)}", help=hint)
    copied = {HEAD} if arch.tied else set()
    used = {*needed, *copied, *(f"{_module(name)}.{end}" for name in integers for end in SUFFIXES)}
    extra = [name for name in stored if name not in used and not _says_nothing(name, stored[name], integers)]
    if extra:
        files = ", ".join(sorted({f"`{stored[name].file.path.name}`" for name in extra}))
        message = f"the checkpoint in `{folder}` has tensors that a {arch.family} of this config does not use"
        fail("E0344", f"{message}: {_listed(extra, stored)} in {files}")
    for name, shape in needed.items():
        if name not in integers:
            _check(stored[name], shape)
    plain = {name: stored[name] for name in (*needed, *copied) if name in stored and name not in integers}
    return {name: integers.get(name) or plain[name] for name in (*needed, *copied) if name in integers or name in plain}


def _integers(
    arch: DecoderArch, stored: Mapping[str, StoredTensor], quantised: Quantised
) -> dict[str, QuantisedTensor]:
    """The linears of `arch` that are stored as integers, by the name of their weight."""
    found = {}
    linears, _ = split({f"{name}.weight": shape for name, shape in arch.linears().items()}, FAMILIES[arch.family].fused)
    for weight, shape in linears.items():
        name = _module(weight)
        if not is_quantised(name, stored):
            continue
        module = name if name == _module(HEAD) else f"{_PREFIX}{name}"
        scheme = quantised.scheme_of(module)
        if scheme is None:
            message = f"`{module}` is stored as integers, and {quantised.place} leaves it out"
            fail("E0349", message, help="correct the config of the quantisation, or fetch the checkpoint again")
        n, k = shape
        found[weight] = quantised_tensor(name, scheme, (n, k), stored)
    return found


def _without_prefix(read: Mapping[str, StoredTensor], folder: Path) -> dict[str, StoredTensor]:
    """The stored tensors by the names edgec has for them, each name once."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in read.items():
        short = name.removeprefix(_PREFIX)
        if short in found:
            message = f"the checkpoint in `{folder}` stores `{found[short].name}` and `{name}`, which are one tensor"
            fail("E0344", message, help="remove the one that is not the model's, or fetch the checkpoint again")
        found[short] = tensor
    return found


def _prefix_hint(wanted: str, stored: Mapping[str, StoredTensor]) -> str | None:
    """What stands before every stored name, if the tensor is there under such a name; else a name that is stored."""
    wrapped = next((tensor.name for tensor in stored.values() if tensor.name.endswith(f".{wanted}")), None)
    if wrapped is not None:
        prefix = wrapped.removesuffix(wanted).removesuffix(_PREFIX)
        whose = _WRAPPERS.get(prefix, "a wrapper's: save the model that is inside it")
        return f"it is stored as `{wrapped}`; `{prefix}` is {whose}"
    first = next(iter(stored.values()), None)
    return f"what is stored is called e.g. `{first.name}`" if first is not None else None


def _says_nothing(name: str, tensor: StoredTensor, integers: Mapping[str, QuantisedTensor]) -> bool:
    """Buffers that the config says too, and biases of zeros that old GPTQ tools gave to every linear."""
    if name == _RECOMPUTED or name.endswith(f".{_RECOMPUTED}"):
        return True
    if not name.endswith(".bias") or f"{_module(name)}.weight" not in integers or len(tensor.shape) != 1:
        return False
    return tensor.dtype in _WIDTHS and not any(tensor.file.read(tensor.offset, tensor.shape[0] * _WIDTHS[tensor.dtype]))


def _module(name: str) -> str:
    """`layers.0.mlp.up_proj.weight` -> `layers.0.mlp.up_proj`."""
    return name.rpartition(".")[0]


def _check(stored: StoredTensor, shape: tuple[int, ...]) -> None:
    if stored.shape != shape:
        message = f"tensor `{stored.name}` in `{stored.file.path}` has shape {list(stored.shape)}"
        fail("E0345", f"{message}, config.json asks for {list(shape)}")
    stored.check_type()


def _listed(names: list[str], stored: Mapping[str, StoredTensor] | None = None) -> str:
    return some_of(quoted(stored[name].name if stored else name for name in names), _SHOWN)
