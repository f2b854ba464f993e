"""Which GGUF tensor each tensor of an architecture is, and its rows as float32.

llama.cpp's converter reorders the rows of q_proj and k_proj of the llama family, so that rotary embedding turns
neighbours instead of halves. Within a head of D rows, h in {0, 1}, i < D/2:

    stored row 2i + h    is    row h * D/2 + i of the projection

Rows are read in their stored order and put back here; blocks run along the other axis, so integers stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...diagnostics.diagnostic import fail
from ...diagnostics.wording import quoted, some_of
from ...ir.decoder_arch import DecoderArch
from ..finite_rows import finite
from .ggml_types import TYPES
from .gguf_file import GgufFile, StoredBlocks
from .read_gguf_arch import ROPE_FACTORS

if TYPE_CHECKING:
    import numpy as np

    from ...ir.weights import Weight

_GLOBAL = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_PERMUTED = ("llama",)  # families whose q and k are stored in pairs
_SHOWN = 3


def find_gguf_tensors(arch: DecoderArch, file: GgufFile) -> dict[str, StoredBlocks]:
    """The stored tensor of each name of `arch`; what is missing, extra, of another shape or type is an error."""
    needed = {name: stored_name(name) for name in arch.tensors()}
    missing = [theirs for theirs in needed.values() if theirs not in file.tensors]
    if missing:
        message = f"`{file.path}` lacks {_listed(missing)}, which a {arch.family} of its metadata has"
        fail("E0343", message, help="fetch or convert the file again")
    extra = sorted(file.tensors.keys() - set(needed.values()) - {ROPE_FACTORS})
    if extra:
        message = f"`{file.path}` has tensors that a {arch.family} of its metadata has no use for: {_listed(extra)}"
        fail("E0344", message, help="its metadata is of another model: convert the model again")
    for name, shape in arch.tensors().items():
        _check(file.tensors[needed[name]], shape)
    return {name: file.tensors[theirs] for name, theirs in needed.items()}


def stored_name(name: str) -> str:
    """GGUF's name of a tensor: `layers.3.self_attn.q_proj.weight` is `blk.3.attn_q.weight`."""
    path, _, leaf = name.rpartition(".")
    if path in _GLOBAL:
        return f"{_GLOBAL[path]}.{leaf}"
    _, layer, rest = path.split(".", 2)
    return f"blk.{layer}.{_LAYER[rest]}.{leaf}"


def float_weight(name: str, stored: StoredBlocks, arch: DecoderArch) -> Weight:
    """The tensor `name` of `arch` as lazy float32 rows; rows with NaN or infinity are an error when they are read."""
    import onnx_ir as ir

    from ...ir.weights import Weight

    def rows(start: int, stop: int) -> np.ndarray:
        return dequantised(stored, raw_rows(name, stored, arch, start, stop))

    origin = f"{stored.file.path.name}:{stored.name} {stored.type.name} > float32"
    weight = Weight(name, ir.DataType.FLOAT, stored.shape, rows, origin)
    return finite(weight, stored.name, stored.file.path)


def dequantised(stored: StoredBlocks, raw: np.ndarray) -> np.ndarray:
    """Rows of bytes as `raw_rows` gives them, as the float32 rows they stand for."""
    import numpy as np
    from gguf import GGMLQuantizationType, quants

    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found by whoever reads the rows
        made = quants.dequantize(raw, GGMLQuantizationType[stored.type.name]).astype(np.float32, copy=False)
    return made.reshape(-1) if len(stored.shape) == 1 else made.reshape(len(raw), stored.shape[-1])


def raw_rows(name: str, stored: StoredBlocks, arch: DecoderArch, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of `arch`'s tensor `name` as stored bytes: uint8 [rows, bytes of a row].

    The numbers of a vector count as rows of one number each.
    """
    columns = 1 if len(stored.shape) == 1 else stored.shape[-1]
    width, head = stored.type.row_bytes(columns), arch.head_dim
    if not _is_permuted(name, arch):
        return _bytes(stored, start, stop, width)
    first, last = start // head * head, -(-stop // head) * head
    heads = _bytes(stored, first, last, width).reshape(-1, head // 2, 2, width)
    return heads.swapaxes(1, 2).reshape(last - first, width)[start - first : stop - first]


def _bytes(stored: StoredBlocks, start: int, stop: int, width: int) -> np.ndarray:
    import numpy as np

    raw = stored.file.read(stored.offset + start * width, (stop - start) * width)
    return np.frombuffer(raw, np.uint8).reshape(stop - start, width)


def _is_permuted(name: str, arch: DecoderArch) -> bool:
    return arch.family in _PERMUTED and (".q_proj." in name or ".k_proj." in name)


def _check(stored: StoredBlocks, shape: tuple[int, ...]) -> None:
    where = f"tensor `{stored.name}` in `{stored.file.path}`"
    if stored.shape != shape:
        message = f"{where} has shape {list(stored.shape)}, the metadata asks for {list(shape)}"
        fail("E0345", message, help="metadata and tensors are of different models: convert the model again")
    if not stored.type.read:
        known = ", ".join(kind.name for kind in TYPES.values() if kind.read)
        fail("E0346", f"{where} is stored as {stored.type.name}", help=f"edgec reads {known}")
    if len(shape) == 1 and stored.type.block != 1:
        fail("E0346", f"{where} is a vector stored as {stored.type.name}", help="convert the model again")


def _listed(names: list[str]) -> str:
    return some_of(quoted(names), _SHOWN)
