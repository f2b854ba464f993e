"""The legality rule about quantised weights: every DequantizeLinear of a constant is well formed.

    w = (q - zero) * scale     q [.., K, ..]   scale and zero [.., K/block, ..] for blocks along axis, [K] per index of
                               axis, [] for the whole tensor

Whether they are in the format that a pass has stated is the check of that fact, `annotations.FORMAT`. Values are not
looked at: weights are lazy, and a rule that runs between passes must not read them.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ..linears import DEQUANTIZE_BLOCKS
from ..module import Module

_INTEGERS = {ir.DataType[name] for name in ("INT2", "UINT2", "INT4", "UINT4", "INT8", "UINT8")}
_OF_FILES = {ir.DataType[name] for name in ("INT16", "UINT16", "INT32")}  # biases of models quantised elsewhere


def dequantised_weights(module: Module) -> Iterator[str]:
    """What is wrong with the constants that DequantizeLinear reads, one sentence each."""
    for node in module.nodes(DEQUANTIZE_BLOCKS):
        yield from (f"`{node.name}` {why}" for why in _minimum_faults(module, node))
    for node in module.nodes("DequantizeLinear"):
        weight = module.constant(node.inputs[0])
        if weight is not None:
            yield from (f"`{node.name}` {why}" for why in _dequant_faults(module, node, weight))


def _minimum_faults(module: Module, node: ir.Node) -> Iterator[str]:
    """q unsigned [N, K], scale and minimum [N, K/block]."""
    tensors = [module.constant(value) for value in node.inputs]
    if None in tensors or len(tensors) != 3:
        yield "has no constant integers, scale and minimum"
        return
    q, scale, minimum = (tensor for tensor in tensors if tensor is not None)
    block = node.attributes.get_int("block_size", 0) or 0
    n, k = q.dims if len(q.dims) == 2 else (0, 0)
    if q.dtype not in _INTEGERS or q.dtype.is_signed():
        yield f"takes {q.dtype.name.lower()} weights"
    if not block or k % block or scale.dims != (n, k // block) or minimum.dims != scale.dims:
        found = f"{described(scale)} and a minimum {described(minimum)}"
        yield f"has a scale {found} for blocks of {block} of {described(q)}"


def _dequant_faults(module: Module, node: ir.Node, weight: ir.TensorProtocol) -> Iterator[str]:
    inputs = [*node.inputs, None, None][:3]
    scale, zero = module.constant(inputs[1]), module.constant(inputs[2])
    if weight.dtype not in _INTEGERS | _OF_FILES:
        yield f"takes {weight.dtype.name.lower()} weights"
        return
    if scale is None:
        yield "has no constant scale"
        return
    if inputs[2] is not None and zero is None:
        yield "has no constant zero point"
    if zero is not None and (zero.dtype != weight.dtype or zero.shape != scale.shape):
        yield f"has a zero point {described(zero)} for weights {described(weight)} and a scale {described(scale)}"
    yield from _block_faults(node, weight, scale)


def _block_faults(node: ir.Node, weight: ir.TensorProtocol, scale: ir.TensorProtocol) -> Iterator[str]:
    """scale [..., K/block, ...] for blocks along axis, [N] per channel, [] per tensor."""
    dims, found = [int(d) for d in weight.shape.numpy()], [int(d) for d in scale.shape.numpy()]
    block = node.attributes.get_int("block_size", 0) or 0
    axis = node.attributes.get_int("axis", 1)
    axis = 1 if axis is None else axis
    if not found and not block:
        return
    if not -len(dims) <= axis < len(dims):
        yield f"has axis {axis}, its weights have {len(dims)} dimensions"
        return
    if block < 0 or (block and dims[axis] % block):
        yield f"has blocks of {block}, which do not divide the {dims[axis]} weights along axis {axis}"
        return
    expected = [dims[axis]]
    if block:
        expected = list(dims)
        expected[axis] //= block
    if found != expected:
        yield f"has a scale of shape {found}, its weights {dims} need {expected}"


def described(tensor: ir.TensorProtocol) -> str:
    """Type and shape: `uint4[8, 64]`."""
    return f"{tensor.dtype.name.lower()}[{', '.join(str(d) for d in tensor.shape.numpy())}]"
