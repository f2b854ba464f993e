"""The stored tensors of one quantised linear, found by their headers; the config implies which, and their shapes.

gptq, awq     X.qweight  X.qzeros  X.scales  (X.g_idx)
packed        X.weight_packed  X.weight_scale  (X.weight_zero_point)  (X.weight_shape)  (X.weight_g_idx)
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ....diagnostics.diagnostic import fail
from ..safetensors_index import StoredTensor
from .scheme import Scheme

_GPTQ = {"q": "qweight", "zero": "qzeros", "scale": "scales", "order": "g_idx"}
_PACKED = {"q": "weight_packed", "zero": "weight_zero_point", "scale": "weight_scale", "order": "weight_g_idx"}
_SHAPE = "weight_shape"
SUFFIXES = (*_GPTQ.values(), *_PACKED.values(), _SHAPE)
_INTEGERS = ("qweight", "weight_packed")  # either says that a linear is stored as integers
_WORD = 32


@dataclass(frozen=True)
class QuantisedTensor:
    """A linear [N, K] stored as integers; `parts` by role: q, scale, zero (absent: none is stored), order."""

    module: str
    scheme: Scheme
    shape: tuple[int, int]
    parts: Mapping[str, StoredTensor]

    @property
    def name(self) -> str:
        """What messages call it: the name of its integers."""
        return self.parts["q"].name

    @cached_property
    def act_order(self) -> bool:
        """Whether the inputs of a group do not lie beside each other (GPTQ's `desc_act`)."""
        if "order" not in self.parts:
            return False
        held = self.parts["order"]
        return bytes(held.file.read(held.offset, 4 * self.shape[1])) != _sorted(self.shape[1], self.scheme.group)


def is_quantised(module: str, stored: Mapping[str, StoredTensor]) -> bool:
    """Whether `module` is among the `stored` tensors as integers."""
    return any(f"{module}.{leaf}" in stored for leaf in _INTEGERS)


def quantised_tensor(
    module: str, scheme: Scheme, shape: tuple[int, int], stored: Mapping[str, StoredTensor]
) -> QuantisedTensor:
    """The linear `module` [N, K] among the `stored` tensors of a checkpoint, by their names."""
    packed = scheme.layout == "packed"
    suffixes = _PACKED if packed else _GPTQ
    found = {role: stored[f"{module}.{end}"] for role, end in suffixes.items() if f"{module}.{end}" in stored}
    needed = ["q", "scale"] if packed and scheme.symmetric else ["q", "scale", "zero"]
    if missing := [f"`{module}.{suffixes[role]}`" for role in needed if role not in found]:
        fail("E0343", f"the checkpoint lacks {', '.join(missing)}, which {scheme.name} has")
    made = QuantisedTensor(module, scheme, shape, found)
    for role, (dtypes, wanted) in _wanted(made).items():
        if role in found:
            _check(found[role], dtypes, wanted, made)
    if (whole := stored.get(f"{module}.{_SHAPE}")) is not None:
        _check_whole(whole, shape)
    return made


def _wanted(made: QuantisedTensor) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Types and shape of each part."""
    scheme, (n, k) = made.scheme, made.shape
    bits, groups = scheme.bits, scheme.groups(k)
    words, ints, floats = lambda count: -(-count * bits // _WORD), ("I32", "U32"), ("F16", "BF16", "F32")
    order = (("I32",), (k,))
    if scheme.layout == "gptq":
        shapes = (words(k), n), (groups, words(n)), (groups, n)
    elif scheme.layout == "awq_gemm":
        shapes = (k, words(n)), (groups, words(n)), (groups, n)
    elif scheme.layout == "awq_gemv":
        wide = _gemv_words(groups, scheme.group or k)
        shapes = (n, words(k)), (n, wide), (n, wide * _WORD // bits)
    else:
        shapes = (n, words(k)), (words(n), groups), (1,) if scheme.one_scale else (n, groups)
    q, zero, scale = shapes
    return {"q": (ints, q), "zero": (ints, zero), "scale": (floats, scale), "order": order}


def _gemv_words(groups: int, group: int) -> int:
    """AutoAWQ's `calculate_zeros_width`: words of eight, in ones, twos or fours by the size of a group."""
    multiple = 1 if group >= 128 else 2 if group == 64 else 4
    words = -(-groups // 8)
    return -(-words // multiple) * multiple


def _check(stored: StoredTensor, dtypes: tuple[str, ...], shape: tuple[int, ...], made: QuantisedTensor) -> None:
    where = f"tensor `{stored.name}` in `{stored.file.path}`"
    if stored.shape != shape:
        n, k = made.shape
        message = f"{where} has shape {list(stored.shape)}, {made.scheme.name} of [{n}, {k}] has {list(shape)}"
        fail("E0349", message, help="the config of the quantisation is of another checkpoint, or the file is damaged")
    if stored.dtype not in dtypes:
        fail("E0349", f"{where} is stored as {stored.dtype}, {made.scheme.name} has {' or '.join(dtypes)} there")


def _check_whole(stored: StoredTensor, shape: tuple[int, int]) -> None:
    """`weight_shape` states the shape before packing."""
    where = f"tensor `{stored.name}` in `{stored.file.path}`"
    code = {"I64": "q", "I32": "i"}.get(stored.dtype)
    if stored.shape != (2,) or code is None:
        fail("E0349", f"{where} is {stored.dtype}{list(stored.shape)}, it has to be two integers")
    held = array(code, bytes(stored.file.read(stored.offset, 2 * array(code).itemsize)))
    if tuple(held) != shape:
        fail("E0349", f"{where} says {list(held)}, config.json asks for {list(shape)}")


@lru_cache(maxsize=16)
def _sorted(inputs: int, group: int | None) -> bytes:
    """The `g_idx` of groups that lie beside each other."""
    return array("i", (k // (group or inputs) for k in range(inputs))).tobytes()
