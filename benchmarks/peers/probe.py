"""A model's linears side by side, y_i = x_i W_i^T: converters quantise the network, and the identity reads it back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from shared import SKIPPED


def float_weights(folder: Path) -> dict[str, np.ndarray]:
    """Hugging Face name -> weight [N, K] float32 of every linear but the skipped ones."""
    from safetensors.numpy import load_file

    tensors = load_file(folder / "model.safetensors")
    names = [
        name
        for name, array in tensors.items()
        if array.ndim == 2 and not name.removesuffix(".weight").endswith(SKIPPED)
    ]
    return {name: tensors[name].astype(np.float32) for name in names}


def network(weights: Mapping[str, np.ndarray]) -> Any:
    """The ONNX model: inputs x_0 .. [R, K], outputs y_0 .. [R, N], in the order of `weights`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, inputs, outputs, held = [], [], [], []
    for i, weight in enumerate(weights.values()):
        n, k = weight.shape
        held.append(numpy_helper.from_array(np.ascontiguousarray(weight.T), f"w_{i}"))
        nodes.append(helper.make_node("MatMul", [f"x_{i}", f"w_{i}"], [f"y_{i}"], name=f"linear_{i}"))
        inputs.append(helper.make_tensor_value_info(f"x_{i}", TensorProto.FLOAT, ["rows", k]))
        outputs.append(helper.make_tensor_value_info(f"y_{i}", TensorProto.FLOAT, ["rows", n]))
    graph = helper.make_graph(nodes, "linears", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def checked(weights: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray], bits: int) -> dict[str, np.ndarray]:
    """`made`, after a look at whether it can be these weights at all: a row's error is below its largest weight."""
    for name, weight in weights.items():
        error = np.abs(made[name] - weight).max(1)
        bound = np.abs(weight).max(1) * (1.2 if bits == 2 else 0.6)
        if made[name].shape != weight.shape or (error > bound).any():
            raise ValueError(json.dumps({"not what it should be": name, "error": float((error / bound).max())}))
    return dict(made)
