"""How each ONNX op becomes ops of MNN. A handler takes the lowering and the node, and returns the tensor made.

Shapes are MNN's NCHW; convolutions and poolings run on the packed layout, between two conversions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ..file import op_parameters as tables

if TYPE_CHECKING:
    from .lower import GraphLowering

Handler = Callable[["GraphLowering", ir.Node], int]

BINARY = {
    "Add": "ADD",
    "Sub": "SUB",
    "Mul": "MUL",
    "Div": "REALDIV",
    "Pow": "POW",
    "Max": "MAXIMUM",
    "Min": "MINIMUM",
}
UNARY = {
    "Abs": "ABS",
    "Cos": "COS",
    "Erf": "ERF",
    "Exp": "EXP",
    "HardSwish": "HARDSWISH",
    "Log": "LOG",
    "Neg": "NEG",
    "Sigmoid": "SIGMOID",
    "Sin": "SIN",
    "Sqrt": "SQRT",
    "Swish": "SILU",
    "Tanh": "TANH",
}
_EXACT = 1 << 23  # entries up to which an index plus their number is exact as a float
REDUCE = {"ReduceMean": "MEAN", "ReduceSum": "SUM", "ReduceMax": "MAXIMUM", "ReduceMin": "MINIMUM"}


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """The value of an attribute of `node`, `default` where it is absent."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def binary(low: GraphLowering, node: ir.Node) -> int:
    """Elementwise ops of two operands; Max and Min of more are refused."""
    if len(node.inputs) != 2:
        low.refuse(node, f"{len(node.inputs)} operands")
    return low.op(node, "BinaryOp", [low.value(node, 0), low.value(node, 1)], tables.binary(BINARY[node.op_type]))


def unary(low: GraphLowering, node: ir.Node) -> int:
    """Elementwise ops of one operand. Swish has alpha = 1 in MNN."""
    if node.op_type == "Swish" and attribute(node, "alpha", 1.0) != 1.0:
        low.refuse(node, "an alpha other than 1")
    return low.op(node, "UnaryOp", [low.value(node, 0)], tables.unary(UNARY[node.op_type]))


def gelu(low: GraphLowering, node: ir.Node) -> int:
    """Gelu: MNN's `GELU_STANDARD` is exact (erf), its `GELU` is the tanh approximation."""
    exact = attribute(node, "approximate", "none") in ("none", b"none")
    return low.op(node, "UnaryOp", [low.value(node, 0)], tables.unary("GELU_STANDARD" if exact else "GELU"))


def relu(low: GraphLowering, node: ir.Node) -> int:
    """Relu, LeakyRelu: MNN has one op with a slope for negative values."""
    slope = float(attribute(node, "alpha", 0.01)) if node.op_type == "LeakyRelu" else 0.0
    return low.op(node, "ReLU", [low.value(node, 0)], ("Relu", {"slope": slope}))


def clip(low: GraphLowering, node: ir.Node) -> int:
    """Clip to constant bounds; an absent bound is float32's largest number."""
    limit = float(np.finfo(np.float32).max)
    bounds = [low.constant(node, i) if len(node.inputs) > i and node.inputs[i] is not None else None for i in (1, 2)]
    low_end, high_end = (
        default if bound is None else float(bound) for bound, default in zip(bounds, (-limit, limit), strict=True)
    )
    return low.op(node, "ReLU6", [low.value(node, 0)], ("Relu6", {"minValue": low_end, "maxValue": high_end}))


def softmax(low: GraphLowering, node: ir.Node) -> int:
    """Softmax over any axis."""
    rank = low.rank(node, 0)
    axis = int(attribute(node, "axis", -1))
    return low.op(node, "Softmax", [low.value(node, 0)], tables.axis(axis % rank))


def layer_norm(low: GraphLowering, node: ir.Node) -> int:
    """LayerNormalization, RMSNormalization over the last axis, with constant gain and bias."""
    rank = low.rank(node, 0)
    if int(attribute(node, "axis", -1)) % rank != rank - 1:
        low.refuse(node, "an axis other than the last")
    gamma = low.constant(node, 1).astype(np.float32).reshape(-1)
    beta = low.constant(node, 2).astype(np.float32).reshape(-1) if len(node.inputs) > 2 else None
    epsilon = float(attribute(node, "epsilon", 1e-5))
    table = tables.norm(gamma, epsilon, beta, rms=node.op_type == "RMSNormalization")
    return low.op(node, "LayerNorm", [low.value(node, 0)], table)


def batch_norm(low: GraphLowering, node: ir.Node) -> int:
    """y = x * a + b per channel, a = scale / sqrt(var + epsilon), b = bias - mean * a."""
    if attribute(node, "training_mode", 0):
        low.refuse(node, "training mode")
    scale, bias, mean, var = (low.constant(node, i).astype(np.float64) for i in range(1, 5))
    gain = scale / np.sqrt(var + float(attribute(node, "epsilon", 1e-5)))
    shape = (1, -1, *([1] * (low.rank(node, 0) - 2)))
    name = low.name(node)
    a = low.net.const(f"{name}/gain", gain.astype(np.float32).reshape(shape))
    b = low.net.const(f"{name}/shift", (bias - mean * gain).astype(np.float32).reshape(shape))
    x = low.net.one("BinaryOp", [low.value(node, 0), a], f"{name}/scaled", *tables.binary("MUL"))
    return low.op(node, "BinaryOp", [x, b], tables.binary("ADD"))


def conv(low: GraphLowering, node: ir.Node) -> int:
    """Conv over [N, C, H, W] with a constant kernel [M, C/group, h, w], in MNN's packed layout."""
    linear = low.linear(node)
    if len(linear.shape) != 4:
        low.refuse(node, f"a kernel of rank {len(linear.shape)} (only 2-D convolutions)")
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET"):
        low.refuse(node, "`auto_pad`; give explicit pads")
    outputs, per_group, *kernel = linear.shape
    group = int(attribute(node, "group", 1))
    depthwise = group == outputs and per_group == 1 and group > 1
    bias = low.constant(node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    table = tables.convolution(
        low.write(linear, bias),
        per_group * group,
        outputs,
        kernel,
        attribute(node, "strides", (1, 1)),
        attribute(node, "dilations", (1, 1)),
        attribute(node, "pads", (0, 0, 0, 0)),
        group,
    )
    return low.packed(node, "ConvolutionDepthwise" if depthwise else "Convolution", table)


def pool(low: GraphLowering, node: ir.Node) -> int:
    """2-D poolings, global ones too, in MNN's packed layout."""
    if low.rank(node, 0) != 4:
        low.refuse(node, f"rank {low.rank(node, 0)} (only 2-D poolings)")
    if len(node.outputs) > 1 or any(d != 1 for d in attribute(node, "dilations", (1, 1))):
        low.refuse(node, "indices or dilations")
    whole = node.op_type.startswith("Global")
    kernel = (1, 1) if whole else attribute(node, "kernel_shape", (1, 1))
    strides, pads = attribute(node, "strides", (1, 1)), attribute(node, "pads", (0, 0, 0, 0))
    fields = {
        "padX": 0,
        "padY": 0,
        "isGlobal": whole,
        "kernelX": kernel[1],
        "kernelY": kernel[0],
        "strideX": strides[1],
        "strideY": strides[0],
        "type": "MAXPOOL" if node.op_type.endswith("MaxPool") else "AVEPOOL",
        "padType": "CAFFE",
        "ceilModel": bool(attribute(node, "ceil_mode", 0)),
        "countType": "INCLUDE_PADDING" if attribute(node, "count_include_pad", 0) else "EXCLUDE_PADDING",
    }
    if any(pads):
        fields["pads"] = list(pads)
    return low.packed(node, "Pooling", ("Pool", fields))


def matmul(low: GraphLowering, node: ir.Node) -> int:
    """MatMul: a linear (1x1 convolution) if the second operand is constant, else a product, batched above rank 2."""
    if low.is_linear(node):
        return low.dense(node, None)
    matrices, ranks = [low.value(node, 0), low.value(node, 1)], [low.rank(node, 0), low.rank(node, 1)]
    if min(ranks) < 2:
        low.refuse(node, "an operand of rank 1")
    if max(ranks) == 2:  # the batched one fails without a batch
        table = ("MatMul", {"T": "DT_FLOAT", "transposeA": False, "transposeB": False})
        return low.op(node, "MatMul", matrices, table)
    return low.op(node, "BatchMatMul", matrices, ("BatchMatMulParam", {"adjX": False, "adjY": False}))


def gemm(low: GraphLowering, node: ir.Node) -> int:
    """Gemm with constant weight and bias: a linear; a bias of one value is repeated for all outputs."""
    if not low.is_linear(node) or attribute(node, "beta", 1.0) != 1.0:
        low.refuse(node, "operands other than a constant weight and bias")
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = low.constant(node, 2).astype(np.float32).reshape(-1)
        width = low.linear(node).shape[0]
        bias = np.broadcast_to(bias, (width,)) if bias.size == 1 else bias
    return low.dense(node, bias)


def reshape(low: GraphLowering, node: ir.Node) -> int:
    """Reshape to a constant shape; 0 keeps a dimension, so `allowzero` is refused."""
    if attribute(node, "allowzero", 0):
        low.refuse(node, "`allowzero`")
    dims = [int(d) for d in low.constant(node, 1)]
    return low.op(node, "Reshape", [low.value(node, 0)], tables.reshape(dims))


def flatten(low: GraphLowering, node: ir.Node) -> int:
    """Flatten from axis 1: a Reshape to [0, -1]."""
    if int(attribute(node, "axis", 1)) != 1:
        low.refuse(node, "an axis other than 1")
    return low.op(node, "Reshape", [low.value(node, 0)], tables.reshape([0, -1]))


def transpose(low: GraphLowering, node: ir.Node) -> int:
    """Transpose; without `perm` the axes are reversed."""
    rank = low.rank(node, 0)
    perm = list(attribute(node, "perm", range(rank - 1, -1, -1)))
    return low.op(node, "Permute", [low.value(node, 0)], ("Permute", {"dims": perm}))


def concat(low: GraphLowering, node: ir.Node) -> int:
    """Concat along an axis counted from the front or the back."""
    values = [low.value(node, i) for i in range(len(node.inputs))]
    return low.op(node, "Concat", values, tables.axis(int(attribute(node, "axis", 0))))


def squeeze(low: GraphLowering, node: ir.Node) -> int:
    """Squeeze and Unsqueeze with constant axes."""
    axes = [int(a) for a in low.constant(node, 1)] if len(node.inputs) > 1 else []
    return low.op(node, node.op_type, [low.value(node, 0)], ("SqueezeParam", {"squeezeDims": axes}))


def reduce(low: GraphLowering, node: ir.Node) -> int:
    """ReduceMean, ReduceSum, ReduceMax, ReduceMin over constant axes; over all without axes."""
    rank = low.rank(node, 0)
    given = len(node.inputs) > 1 and node.inputs[1] is not None
    axes = [int(a) % rank for a in low.constant(node, 1)] if given else list(range(rank))
    fields = {
        "operation": REDUCE[node.op_type],
        "dim": axes,
        "coeff": 0.0,
        "keepDims": bool(attribute(node, "keepdims", 1)),
    }
    return low.op(node, "Reduction", [low.value(node, 0)], ("ReductionParam", fields))


def gather(low: GraphLowering, node: ir.Node) -> int:
    """Gather along an axis; a quantised table is refused."""
    if low.is_linear(node) and low.linear(node).quant is not None:
        low.refuse(node, "a quantised table (leave the embedding float with `except`)")
    axis = int(attribute(node, "axis", 0)) % low.rank(node, 0)
    along = low.net.const(f"{low.name(node)}/axis", np.array([axis], np.int32))
    return low.op(node, "GatherV2", [low.value(node, 0), _from_the_front(low, node, axis), along], None)


def _from_the_front(low: GraphLowering, node: ir.Node, axis: int) -> int:
    """Indices i of a Gather as i mod size: ONNX counts negative ones from the end, MNN reads before the table."""
    name, size = low.name(node), low.size(node, 0, axis)
    if low.is_constant(node, 1):
        indices = low.constant(node, 1)
        if (indices >= 0).all():
            return low.value(node, 1)
        if size is not None:
            return low.net.const(f"{name}/indices", (indices % size).astype(np.int32))
    if size is not None and size > _EXACT:
        low.refuse(node, f"indices into {size} entries: MNN counts negative ones as floats, exact up to 2^24")
    if size is not None:
        length = low.net.const(f"{name}/size", np.array(size, np.int32))  # without axes, as an index may be
    else:
        shape = low.net.one("Shape", [low.value(node, 0)], f"{name}/shape")
        ends = (("place", axis), ("first", 0))
        place, first = (low.net.const(f"{name}/{key}", np.array(at, np.int32)) for key, at in ends)
        length = low.net.one("GatherV2", [shape, place, first], f"{name}/size")
    above = low.net.one("BinaryOp", [low.value(node, 1), length], f"{name}/above", *tables.binary("ADD"))
    return low.net.one("BinaryOp", [above, length], f"{name}/indices", *tables.binary("FLOORMOD"))


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(BINARY, binary),
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(REDUCE, reduce),
    "Gelu": gelu,
    "Relu": relu,
    "LeakyRelu": relu,
    "Clip": clip,
    "Softmax": softmax,
    "LayerNormalization": layer_norm,
    "RMSNormalization": layer_norm,
    "BatchNormalization": batch_norm,
    "Conv": conv,
    "MaxPool": pool,
    "AveragePool": pool,
    "GlobalAveragePool": pool,
    "GlobalMaxPool": pool,
    "MatMul": matmul,
    "Gemm": gemm,
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Concat": concat,
    "Squeeze": squeeze,
    "Unsqueeze": squeeze,
    "Gather": gather,
}
