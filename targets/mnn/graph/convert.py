"""A general ONNX graph through MNN's own converter, in a child process with limits.

    graph, types that MNN has at its boundary  --_tools.mnnconvert-->  <model>.mnn + <model>.mnn.weight

The converter says success whatever happens. What it prints names the ops that it has no form for; whether what it wrote
is right is for a proof to tell.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import onnx_ir as ir

from ....compiler.diagnostics.diagnostic import EngineError, fail
from ....compiler.emit.child_process import Child
from ....compiler.files.scratch import scratch_folder
from ....compiler.ir.bodies import inside
from ....compiler.ir.boundary import retype_boundary
from ....compiler.ir.clone import clone_model
from ....compiler.ir.linears import as_quantized
from ....compiler.ir.module import constant
from ....compiler.proof.not_taken import NotTaken, Wrong

ENGINE = "MNN's own converter"
_SECONDS = 300.0
_MEMORY = 6 << 30  # bytes beside some times the weights
_TIMES = 12
_INLINE = (1 << 31) - (1 << 20)  # bytes that one ONNX file may hold, which is what the converter reads
_UNKNOWN = re.compile(r"These Op Not Support: (.*)")
_WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_PLAIN = {  # types that a graph may have at its boundary, and what takes their place there
    ir.DataType.FLOAT16: ir.DataType.FLOAT,
    ir.DataType.DOUBLE: ir.DataType.FLOAT,
    ir.DataType.INT64: ir.DataType.INT32,
    ir.DataType.BOOL: ir.DataType.INT32,
    ir.DataType.INT8: ir.DataType.INT32,
    ir.DataType.UINT8: ir.DataType.INT32,
    ir.DataType.INT16: ir.DataType.INT32,
    ir.DataType.UINT16: ir.DataType.INT32,
}


def convert(model: ir.Model, path: Path, name: str, bits: int = 0, block: int = 0) -> None:
    """Write `path` and its weights beside it; NotTaken with the nodes of ops that MNN lacks.

    `bits`: weights of convolutions and linears are stored as integers of so many bits, in blocks of `block` (0: a scale
    for each row). EngineError where the converter dies or writes nothing.
    """
    path.unlink(missing_ok=True)
    made = with_plain_boundary(model)
    size = sum(value.const_value.nbytes for value in made.graph.initializers.values() if value.const_value is not None)
    if size > _INLINE:
        fail("E0710", f"`{name}` holds {size / 2**30:.1f} GiB of constants, and {ENGINE} takes less than 2 GiB")
    with scratch_folder("mnn") as folder:
        source = folder / "model.onnx"
        source.write_bytes(ir.to_proto(made).SerializeToString(deterministic=True))
        arguments = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(path), "--bizCode", "edgec"]
        arguments.append("--saveExternalData")
        if bits:
            arguments += ["--weightQuantBits", str(bits), *(["--weightQuantBlock", str(block)] if block else [])]
        with Child(
            "edgec.targets.mnn.run.convert_worker", what=f"{ENGINE}, given `{name}`,", timeout=_SECONDS
        ) as child:
            if sys.platform == "linux":
                child.call("limit", more=_MEMORY + _TIMES * size)
            child.call("convert", arguments=arguments)
            said = child.printed()
    if (lacking := _UNKNOWN.findall(said)) and (nodes := _of_ops(model, lacking[-1])):
        raise NotTaken(ENGINE, name, nodes)
    if not path.is_file() or not path.stat().st_size:
        fail("E0701", f"{ENGINE} wrote no `{path.name}`", kind=EngineError)


def _of_ops(model: ir.Model, listed: str) -> list[Wrong]:
    """The nodes of ops that the converter listed as `ONNX::GatherND | ONNX::Mod`."""
    lacking = {one.strip().rpartition("::")[2] for one in re.split(r"[|,]", listed)}
    found = [node for node in model.graph if node.op_type in lacking or {one.op_type for one in inside(node)} & lacking]
    why = "has no form there"
    return [Wrong(node.name or "", node.op_type, why) for node in found]


def open_weights(graph: ir.Graph) -> list[Wrong]:
    """The convolutions whose weights are inputs, or made of them, at open sizes: the converter takes any for known."""
    found = []
    for node in graph:
        weight = node.inputs[1] if node.op_type in ("Conv", "ConvTranspose") and not node.domain else None
        if weight is None or weight.shape is None or weight.shape.is_static():
            continue
        why = f"reads weights of open sizes, `{weight.name}`, and the converter needs them"
        if weight.is_graph_input():
            sizes = ", ".join(str(d) if isinstance(d, int) else d.value or "?" for d in weight.shape)
            why += f": give the model's block `shapes = {{ {weight.name}: [{sizes}] }}` with numbers for names"
        found.append(Wrong(node.name or "", node.op_type, why))
    return found


def with_plain_boundary(model: ir.Model) -> ir.Model:
    """A copy whose inputs and outputs are of types that MNN has, cast where they enter and leave."""
    copy = clone_model(model)
    retype_boundary(copy.graph, _PLAIN)
    return copy


def stored_bits(model: ir.Model) -> tuple[int, int, str]:
    """(bits, block, "") of quantised weights, block 0 for a scale for each row; (0, 0, why) where there is no one form.

    The converter stores the weights of all convolutions and products in one form, or none.
    """
    found = {(one.format.bits, one.block or 0) for node in model.graph if (one := as_quantized(node)) is not None}
    floats = [node.name or "" for node in model.graph if _holds_floats(node)]
    if not found or (len(found) == 1 and not floats):
        bits, block = found.pop() if found else (0, 0)
        return bits, block, ""
    if floats:
        return 0, 0, f"weights stay floats: {ENGINE} stores all as integers or none, and `{floats[0]}` has floats"
    widths = " and ".join(f"int{bits}" + (f" block {block}" if block else "") for bits, block in sorted(found))
    return 0, 0, f"weights stay floats: {ENGINE} stores all in one form, and they are {widths}"


def _holds_floats(node: ir.Node) -> bool:
    """Whether a convolution or product reads a constant matrix or kernel of floats."""
    if node.domain or node.op_type not in _WEIGHTED:
        return False
    held = constant(node.inputs[1])
    turned = node.inputs[1].producer() if node.inputs[1] is not None else None
    if held is None and turned is not None and turned.op_type == "Transpose":
        held = constant(turned.inputs[0])
    return held is not None and len(held.dims) > 1 and held.dtype.is_floating_point()
