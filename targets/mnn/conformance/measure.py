"""Make the conformance table: small ONNX graphs per op, one linear per weight format, on MNN and ONNX Runtime."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from ....compiler.diagnostics.diagnostic import EdgecError
from ....compiler.ir.linears import QuantizedWeight
from ....compiler.ir.module import MAIN, Module
from ....compiler.ir.weight_format import FORMAT, WeightFormat
from ....compiler.ir.weights import from_array
from ..file import op_parameters as tables
from ..file import weight_blobs as blobs
from ..file.read_back import weight_file
from ..file.writer import Net
from ..graph.emit_graph import random_feeds, reference, relative_errors
from ..graph.lower import GraphLowering
from ..graph.ops import BINARY, HANDLERS, REDUCE, UNARY
from ..run.engine import MnnGraph

_TOOLS = ("MNN", "onnxruntime", "onnx")
_HEAD = '<ir_version: 10, opset_import: ["" : 24]>'
_BLOCKS = (16, 32, 64, 128, None)
_SHAPES = ((96, 256), (33, 128), (130, 384))  # outputs not a multiple of the packing, and more than one tile
_TOKENS = (1, 2, 7, 64)


def main(path: Path) -> None:
    """Run every case and write the table."""
    with tempfile.TemporaryDirectory() as folder:
        ops = {op: _op_row(op, Path(folder)) for op in sorted(HANDLERS)}
        weights = dict(_weight_rows(Path(folder)))
    tools = {tool: importlib.metadata.version(tool) for tool in _TOOLS}
    document = {"tools": tools, "machine": "linux x86-64", "ops": ops, "weights": weights}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _op_row(op: str, folder: Path) -> dict[str, Any]:
    worst, cases = 0.0, list(op_cases(op))
    failed = ""
    for text in cases:
        try:
            worst = max(worst, run_case(text, folder))
        except EdgecError as error:
            worst, failed = float("inf"), str(error).splitlines()[0]
    row: dict[str, Any] = {"cases": len(cases), "max_error": float(f"{worst:.2g}") if np.isfinite(worst) else 1e30}
    if failed:
        row["failed"] = failed
    print(f"{op:24} {row}", file=sys.stderr, flush=True)
    return row


def run_case(text: str, folder: Path) -> float:
    """The largest error of one textual ONNX graph over two sizes of its dynamic dimensions."""
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(f"{_HEAD}\nagraph {text}"))
    model = ir.from_proto(_filled(proto))
    module = Module("case", {MAIN: model})
    path = folder / "case.mnn"
    with weight_file(path).open("wb") as file:
        lowering = GraphLowering(module, file, None)
        lowering.run()
    outputs = [value.name or "" for value in model.graph.outputs]
    lowering.net.write(path, outputs)
    session = MnnGraph(path, [value.name or "" for value in model.graph.inputs], outputs, "normal", 1, "MNN")
    worst = 0.0
    try:
        for seed, size in enumerate((1, 2, 5)):
            feeds = random_feeds(model.graph, size, seed)
            expected = reference(model, feeds)
            worst = max(worst, *relative_errors(session.run(feeds), expected).values())
    finally:
        session.close()
    return worst


def _filled(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Inputs whose name begins with `w` become random constants (halves, as weights are stored)."""
    rng = np.random.default_rng(0)
    graph = proto.graph
    for value in [value for value in graph.input if value.name.startswith("w")]:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        array = rng.normal(size=shape)
        if value.name in ("wpos", "wone"):
            array = np.abs(array) + 0.5
        array = array.astype(np.float16).astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        graph.input.remove(value)
    for node in [node for node in graph.node if node.op_type == "Constant"]:  # the loader does the same
        value = node.attribute[0]
        array = np.array(value.ints, np.int64) if value.ints else np.array(value.f, np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(array, node.output[0]))
        graph.node.remove(node)
    for index, node in enumerate(graph.node):
        node.name = f"n{index}"
    return proto


def op_cases(op: str) -> list[str]:
    """Textual graphs that use `op`: elementwise and reducing ops share theirs, the others have their own."""
    if op in BINARY:
        # powers of negative numbers, and quotients by almost zero, are nobody's business
        base = "abs_x = Abs(x) base = Add(abs_x, wone)" if op == "Pow" else "base = Identity(x)"
        head = "(float[n,5,12] x, float[1] wone, "
        cases = [
            f"{head}float[{shape}] wpos) => (float[n,5,12] y) {{ {base} y = {op}(base, wpos) }}"
            for shape in ("5,12", "1", "1,5,1")
        ]
        both = f"a = Abs(z) b = Add(a, wone) {base} y = {op}(base, b)"
        return [*cases, f"{head}float[n,5,12] z) => (float[n,5,12] y) {{ {both} }}"]
    if op in UNARY:
        pre = "p = Abs(x) q = Add(p, wone)" if op in ("Log", "Sqrt") else "q = Identity(x)"
        return [
            f"(float[n,{shape}] x, float[1] wone) => (float[n,{shape}] y) {{ {pre} y = {op}(q) }}"
            for shape in ("5,12", "6,9,11")
        ]
    if op in REDUCE:
        ways = (("1", 1, "n,1,12"), ("-1", 0, "n,5"), ("1, 2", 1, "n,1,1"))
        return [
            f"(float[n,5,12] x) => (float[{shape}] y) "
            f"{{ i = Constant<value_ints = [{axes}]>() y = {op}<keepdims = {keep}>(x, i) }}"
            for axes, keep, shape in ways
        ]
    return _own_cases()[op]


@functools.cache
def _own_cases() -> dict[str, list[str]]:
    return tomllib.loads(Path(__file__).with_name("cases.toml").read_text(encoding="utf-8"))


def _weight_rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """One row per weight format: the worst error over shapes and token counts in each memory mode."""
    for bits in (2, 3, 4, 8):
        for block in _BLOCKS:
            for symmetric in (True, False):
                yield _weight_row(folder, bits, block, symmetric)
    for bits in (16, 32):
        yield _weight_row(folder, bits, None, True)


def _weight_row(folder: Path, bits: int, block: int | None, symmetric: bool) -> tuple[str, dict[str, Any]]:
    worst, name = {"normal": 0.0, "low": 0.0}, ""
    for rows, columns in _SHAPES:
        for memory in worst:
            error, name = run_linear(folder, bits, block, symmetric, rows, columns, memory)
            worst[memory] = max(worst[memory], error)
    made: dict[str, Any] = {key: float(f"{value:.2g}") for key, value in worst.items()}
    print(f"{name:32} {made}", file=sys.stderr, flush=True)
    return name, made


def run_linear(
    folder: Path, bits: int, block: int | None, symmetric: bool, rows: int, columns: int, memory: str
) -> tuple[float, str]:
    """The worst error of one linear over the token counts, and its format in words."""
    rng = np.random.default_rng(rows + columns)
    path, bias = folder / "linear.mnn", rng.normal(size=rows).astype(np.float32)
    with weight_file(path).open("wb") as file:
        if bits < 16:
            weight = random_weight(rng, bits, block, symmetric, rows, columns)
            blob, matrix = blobs.write_quantized(file, weight, bias), weight.rows(0, rows)
        else:
            big = 1.0 if bits == 16 else 1e5
            matrix = (rng.normal(size=(rows, columns)) * big).astype(np.float32 if bits == 32 else np.float16)
            matrix = matrix.astype(np.float32)
            blob = blobs.write_float(file, from_array("w", matrix), bias)
    _linear_net(blob).write(path, ["y"])
    session = MnnGraph(path, ["x"], ["y"], memory, 1, "MNN")
    worst = 0.0
    try:
        for tokens in _TOKENS:
            x = rng.normal(size=(tokens, columns)).astype(np.float32)
            expected = (x.astype(np.float64) @ matrix.T + bias).astype(np.float32)
            worst = max(worst, *relative_errors(session.run({"x": x}), {"y": expected}).values())
    finally:
        session.close()
    return worst, blob.describe()


def random_weight(
    rng: np.random.Generator, bits: int, block: int | None, symmetric: bool, rows: int, columns: int
) -> QuantizedWeight:
    """Random integers over the whole range as `quantize` holds them, scales of both signs, random zero points."""
    signed, unsigned = (np.int8, np.uint8) if bits == 8 else (ml_dtypes.int4, ml_dtypes.uint4)
    low = -(1 << (bits - 1)) if symmetric else 0
    dtype = np.dtype(signed if symmetric else unsigned)
    q = from_array("q", rng.integers(low, low + (1 << bits), (rows, columns)).astype(dtype))
    q.meta[FORMAT] = WeightFormat(bits, block, symmetric)
    grid = (rows,) if block is None else (rows, columns // block)
    steps = rng.uniform(0.005, 0.02, grid) * (rng.choice((-1, 1), grid) if symmetric and bits < 8 else 1)
    scale = from_array("scale", steps.astype(np.float16).astype(np.float32))
    zero = None if symmetric else from_array("zero", rng.integers(0, 1 << bits, grid).astype(dtype))
    node = ir.Node("", "DequantizeLinear", [])
    return QuantizedWeight(node, q, scale, zero, block, 1 if block else 0)


def _linear_net(blob: blobs.Blob) -> Net:
    net = Net()
    x = net.input("x", [-1, blob.columns], "DT_FLOAT")
    x = net.one("Reshape", [x], "rows", *tables.reshape([-1, blob.columns, 1, 1]))
    x = net.one("ConvertTensor", [x], "packed", *tables.layout("NCHW", "NC4HW4"))
    x = net.one("Convolution", [x], "linear", *tables.convolution(blob, blob.columns, blob.rows), layout="NHWC")
    x = net.one("ConvertTensor", [x], "plain", *tables.layout("NC4HW4", "NCHW"))
    net.one("Reshape", [x], "y", *tables.reshape([-1, blob.rows]))
    return net
