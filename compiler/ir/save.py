"""Write graphs as ONNX files whose weights lie in one data file, each shared tensor once, streamed by row blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from ..files.full_disk import writes
from .annotations import SAME_BYTES
from .clone import clone_model
from .ordered_data import PAGE, write_by_kind
from .runnable_opset import runnable_opset

INLINE_BYTES = 1024  # constants up to this many bytes stay inside the .onnx file (shapes, scales, norms' epsilons)


def save_graphs(
    models: Mapping[str, ir.Model], directory: Path, data_name: str, by_kind: bool = False
) -> dict[str, Path]:
    """Write `<key>.onnx` per model into `directory` and all their big constants into `data_name`.

    Tensors are told apart by object: what two graphs share is stored once, and so are two tensors that see the same
    bytes in different shapes (`SAME_BYTES`). The models are not changed. `by_kind`: weights of
    one kind of matrix beside each other. A graph with ops that ONNX Runtime has at an older
    opset only is written at that one (`runnable_opset`).
    """
    tensors: dict[int, ir.TensorProtocol] = {}
    for model in models.values():
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes > INLINE_BYTES:
                tensors.setdefault(id(tensor), tensor)
    stored = _write(tensors, directory, data_name, by_kind) if tensors else {}
    paths = {}
    for key, model in models.items():
        copy = clone_model(model)
        for value in copy.graph.initializers.values():
            if id(value.const_value) in stored:
                value.const_value = stored[id(value.const_value)]
        copy.graph.opset_imports.update(runnable_opset(copy))
        paths[key] = directory / f"{key}.onnx"
        with writes(paths[key]):
            paths[key].write_bytes(ir.to_proto(copy).SerializeToString(deterministic=True))
    return paths


def _write(
    tensors: Mapping[int, ir.TensorProtocol], directory: Path, name: str, by_kind: bool
) -> dict[int, ir.TensorProtocol]:
    """Stream each distinct tensor into the data file; id -> the external tensor that stands for it."""
    owners = {key: SAME_BYTES.get(tensor) or tensor for key, tensor in tensors.items()}
    distinct = {id(owner): owner for owner in owners.values()}
    with writes(directory / name):
        external: Sequence[ir.ExternalTensor] = (
            write_by_kind(list(distinct.values()), directory, name)
            if by_kind
            else ir.external_data.convert_tensors_to_external(list(distinct.values()), directory, name, alignment=PAGE)
        )
    places = dict(zip(distinct, external, strict=True))
    return {key: _view(places[id(owner)], tensors[key]) for key, owner in owners.items()}


def _view(place: ir.ExternalTensor, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
    if tensor.nbytes != place.nbytes:
        raise ValueError(f"`{tensor.name}` and `{place.name}` do not have the same bytes")
    return ir.ExternalTensor(
        place.location,
        place.offset,
        place.length,
        tensor.dtype,
        shape=ir.Shape([int(d) for d in tensor.shape.numpy()]),
        name=tensor.name or "",
        base_dir=place.base_dir,
    )
