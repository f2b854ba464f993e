"""Write graphs as ONNX files whose weights lie in one data file, each shared tensor once, streamed by row blocks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

SMALL = 1024  # constants up to this many bytes stay inside the .onnx file (shapes, scales, norms' epsilons)


def save_graphs(models: Mapping[str, ir.Model], directory: Path, data_name: str) -> dict[str, Path]:
    """Write `<key>.onnx` per model into `directory` and all their big constants into `data_name`.

    Tensors are told apart by object: what two graphs share is stored once. The models are not changed.
    """
    tensors: dict[int, ir.TensorProtocol] = {}
    for model in models.values():
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes > SMALL:
                tensors.setdefault(id(tensor), tensor)
    stored: dict[int, ir.TensorProtocol] = {}
    if tensors:
        external = ir.external_data.convert_tensors_to_external(
            list(tensors.values()), directory, data_name, alignment=4096
        )
        stored = dict(zip(tensors, external, strict=True))
    paths = {}
    for key, model in models.items():
        copy = model.clone()
        for value in copy.graph.initializers.values():
            if id(value.const_value) in stored:
                value.const_value = stored[id(value.const_value)]
        paths[key] = directory / f"{key}.onnx"
        paths[key].write_bytes(ir.to_proto(copy).SerializeToString(deterministic=True))
    return paths
