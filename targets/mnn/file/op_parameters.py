"""The parameter tables of MNN's ops, as far as edgec emits them; the names are those of MNN's schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .weight_blobs import Blob

OpParameters = tuple[str, dict[str, Any]]


def convolution(
    blob: Blob,
    inputs: int,
    outputs: int,
    kernel: Sequence[int] = (1, 1),
    strides: Sequence[int] = (1, 1),
    dilations: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    group: int = 1,
) -> OpParameters:
    """A convolution (a linear is one with a 1x1 kernel) whose weight is in the weight file.

    `kernel`, `strides`, `dilations` are (height, width); `pads` is ONNX's (top, left, bottom, right).
    """
    common = {
        "padX": 0,
        "padY": 0,
        "kernelX": kernel[1],
        "kernelY": kernel[0],
        "strideX": strides[1],
        "strideY": strides[0],
        "dilateX": dilations[1],
        "dilateY": dilations[0],
        "padMode": "CAFFE",
        "group": group,
        "outputCount": outputs,
        "inputCount": inputs,
        "relu": False,
        "relu6": False,
        "hasOutputShape": False,
    }
    if any(pads):
        common["pads"] = list(pads)
    table: dict[str, Any] = {"common": common, "external": blob.external}
    parameter = blob.parameter()
    if parameter is not None:
        table["quanParameter"] = parameter
    return "Convolution2D", table


def norm(gamma: np.ndarray, epsilon: float, beta: np.ndarray | None = None, rms: bool = True) -> OpParameters:
    """RMS or layer normalisation over the last axis."""
    shift = np.zeros_like(gamma) if beta is None else beta
    return "LayerNorm", {
        "axis": [-1],
        "epsilon": epsilon,
        "group": 1,
        "useRMSNorm": rms,
        "gamma": gamma.astype(np.float32).tolist(),
        "beta": shift.astype(np.float32).tolist(),
    }


def cast(source: str, target: str) -> OpParameters:
    """Parameters of `Cast`; both types are MNN's names (`DT_FLOAT`, `DT_INT32`)."""
    return "CastParam", {"srcT": source, "dstT": target}


def reshape(dims: Sequence[int]) -> OpParameters:
    """Parameters of `Reshape`: 0 keeps a dimension, -1 is computed from the rest."""
    return "Reshape", {"dims": list(dims), "dimType": "NCHW"}


def layout(source: str, dest: str) -> OpParameters:
    """Parameters of `ConvertTensor`; both layouts are MNN's names (`NCHW`, `NC4HW4`)."""
    return "TensorConvertInfo", {"source": source, "dest": dest}


def binary(op: str) -> OpParameters:
    """Parameters of an elementwise op of two operands; `op` is a name of MNN's `BinaryOpOperation`."""
    return "BinaryOp", {"opType": op, "T": "DT_FLOAT"}


def unary(op: str) -> OpParameters:
    """Parameters of an elementwise op of one operand; `op` is a name of MNN's `UnaryOpOperation`."""
    return "UnaryOp", {"opType": op, "T": "DT_FLOAT"}


def axis(value: int) -> OpParameters:
    """Parameters of ops that take one axis: `Softmax`, `Concat`."""
    return "Axis", {"axis": value}
