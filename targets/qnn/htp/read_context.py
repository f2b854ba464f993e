"""Metadata of a QNN context binary through libQnnSystem, by ctypes; runs in the worker only.

The structures mirror QnnSystemContext.h (binary info version 3, graph info version 3) and QnnTypes.h (tensor
versions 1 and 2) of QAIRT 2.51; another version is refused, since its strides differ.
"""

from __future__ import annotations

import ctypes as c
import mmap
from pathlib import Path
from typing import Any

_u32, _i32, _u64, _ptr, _str = c.c_uint32, c.c_int32, c.c_uint64, c.c_void_p, c.c_char_p
_INFO, _GRAPH = 3, 3  # versions understood
_TENSORS = (1, 2)  # version 1 is version 2 without its last fields, in the same room
# words of the HTP blob in a graph's info: bytes of VTCM it was compiled for, and the level of its optimisation
_VTCM_WORD, _OPTIMIZATION_WORD = 4, 5

DTYPES = {
    0x0008: "int8", 0x0016: "int16", 0x0032: "int32", 0x0064: "int64",
    0x0108: "uint8", 0x0116: "uint16", 0x0132: "uint32", 0x0164: "uint64",
    0x0216: "float16", 0x0232: "float32", 0x0508: "bool",
    0x0308: "sfixed8", 0x0316: "sfixed16", 0x0408: "ufixed8", 0x0416: "ufixed16",
}  # fmt: skip
_DEFINED, _SCALE_OFFSET, _AXIS_SCALE_OFFSET = 1, 0, 1


def _struct(name: str, *fields: tuple[str, Any]) -> type[c.Structure]:
    return type(name, (c.Structure,), {"_fields_": list(fields)})


_Version = _struct("Version", ("major", _u32), ("minor", _u32), ("patch", _u32))
_ScaleOffset = _struct("ScaleOffset", ("scale", c.c_float), ("offset", _i32))
_Axis = _struct("Axis", ("axis", _i32), ("count", _u32), ("values", _ptr))
_BwAxis = _struct("BwAxis", ("bits", _u32), ("axis", _i32), ("count", _u32), ("scales", _ptr), ("offsets", _ptr))


class _Encoding(c.Union):
    _fields_ = [("scale_offset", _ScaleOffset), ("axis", _Axis), ("bw_axis", _BwAxis)]


_Quant = _struct("Quant", ("definition", _u32), ("encoding", _u32), ("value", _Encoding))
_Client = _struct("Client", ("data", _ptr), ("size", _u32))
_TensorV2 = _struct(
    "TensorV2",
    ("id", _u32), ("name", _str), ("kind", _u32), ("format", _u32), ("dtype", _u32), ("quant", _Quant),
    ("rank", _u32), ("dims", c.POINTER(_u32)), ("memory", _u32), ("client", _Client), ("dynamic", _ptr),
    ("sparse", _u32 * 3), ("produced", c.c_uint8),
)  # fmt: skip
_Tensor = _struct("Tensor", ("version", _u32), ("v2", _TensorV2))
_Graph = _struct(
    "Graph",
    ("version", _u32), ("name", _str), ("input_count", _u32), ("inputs", c.POINTER(_Tensor)),
    ("output_count", _u32), ("outputs", c.POINTER(_Tensor)), ("updatable_count", _u32), ("updatable", _ptr),
    ("blob_size", _u32), ("blob", _ptr), ("reserved", _u64),
)  # fmt: skip
_InfoV3 = _struct(
    "InfoV3",
    ("backend", _u32), ("build", _str), ("core", _Version), ("backend_api", _Version), ("soc", _str),
    ("blob_version", _Version), ("blob_size", _u64), ("tensor_count", _u32), ("tensors", _ptr),
    ("graph_count", _u32), ("graphs", c.POINTER(_Graph)), ("platform", _ptr), ("metadata_size", _u32),
    ("metadata", _ptr), ("soc_model", _u32),
)  # fmt: skip
_Info = _struct("Info", ("version", _u32), ("v3", _InfoV3))
_Interface = _struct("Interface", ("backend", _u32), ("name", _str), ("version", _Version), ("functions", _ptr * 64))
_CREATE, _GET_INFO, _FREE = 0, 1, 3  # positions in the interface's table


def read_context(path: Path) -> dict[str, Any]:
    """What a context binary says of itself; {"error": text} when the library refuses the file."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return {"error": "the file is empty"}
        # a private mapping: the library gets a pointer, and nothing is copied
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        buffer = (c.c_char * len(data)).from_buffer(data)
        return _read(_interface(), buffer, len(data))


def _interface() -> Any:
    import onnxruntime_qnn

    library = c.CDLL(str(Path(onnxruntime_qnn.LIB_DIR_FULL_PATH) / "libQnnSystem.so"))
    providers, count = c.POINTER(c.POINTER(_Interface))(), _u32()
    get = library.QnnSystemInterface_getProviders
    get.argtypes, get.restype = [c.c_void_p, c.c_void_p], _u64
    if get(c.byref(providers), c.byref(count)) or not count.value:
        raise OSError("libQnnSystem offers no interface")
    return providers[0].contents


def _function(interface: Any, index: int, *arguments: Any) -> Any:
    return c.CFUNCTYPE(_u64, *arguments)(interface.functions[index])


def _read(interface: Any, buffer: Any, size: int) -> dict[str, Any]:
    handle, info, info_size = _ptr(), c.POINTER(_Info)(), _u64()
    if _function(interface, _CREATE, c.c_void_p)(c.byref(handle)):
        raise OSError("libQnnSystem made no context handle")
    get = _function(interface, _GET_INFO, _ptr, _ptr, _u64, c.c_void_p, c.c_void_p)
    code = get(handle, c.cast(buffer, _ptr), size, c.byref(info), c.byref(info_size))
    try:
        if code or not info:
            return {"error": f"libQnnSystem refuses the file (code {code & 0xFFFF})"}
        if info.contents.version != _INFO:
            return {"error": f"binary info of version {info.contents.version}, expected {_INFO}"}
        return _describe(info.contents.v3)
    finally:
        _function(interface, _FREE, _ptr)(handle)


def _describe(info: Any) -> dict[str, Any]:
    graphs = [info.graphs[i] for i in range(info.graph_count)]
    odd = next((graph.version for graph in graphs if graph.version != _GRAPH), None)
    if odd is not None:
        return {"error": f"graph info of version {odd}, expected {_GRAPH}"}
    return {
        "build": (info.build or b"").decode(),
        "soc_model": info.soc_model,
        "blob_bytes": info.blob_size,
        "graphs": {graph.name.decode(): _graph(graph) for graph in graphs},
    }


def _graph(graph: Any) -> dict[str, Any]:
    words = c.cast(graph.blob, c.POINTER(_u32)) if graph.blob and graph.blob_size > 4 * _OPTIMIZATION_WORD else None
    return {
        "inputs": [_tensor(graph.inputs[i]) for i in range(graph.input_count)],
        "outputs": [_tensor(graph.outputs[i]) for i in range(graph.output_count)],
        "vtcm_bytes": None if words is None else words[_VTCM_WORD],
        "optimization": None if words is None else words[_OPTIMIZATION_WORD],
    }


def _tensor(tensor: Any) -> dict[str, Any]:
    if tensor.version not in _TENSORS:
        raise OSError(f"tensor of version {tensor.version}, which is not known here")
    value = tensor.v2
    return {
        "name": value.name.decode(),
        "dtype": DTYPES.get(value.dtype, f"{value.dtype:#06x}"),
        "shape": [value.dims[i] for i in range(value.rank)],
        "quantization": _quantization(value.quant),
    }


def _quantization(quant: Any) -> dict[str, Any] | None:
    if quant.definition != _DEFINED:
        return None
    if quant.encoding == _SCALE_OFFSET:
        value = quant.value.scale_offset
        return {"scale": value.scale, "offset": value.offset}
    if quant.encoding == _AXIS_SCALE_OFFSET:
        return {"axis": quant.value.axis.axis, "channels": quant.value.axis.count}
    return {"encoding": quant.encoding}
