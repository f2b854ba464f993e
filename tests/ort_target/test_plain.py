"""What `verify` holds ONNX Runtime's own ops against: plain operators over the numbers in the file's bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.ir.save import save_graphs
from edgec.targets.ort.plain import plain
from edgec.targets.ort.session import EXACT, OrtGraph, PlainGraph

RNG = np.random.default_rng(3)


def write(tmp_path: Path, bits: int, block: int, zeros: str, looked_up: bool) -> tuple[Path, dict[str, np.ndarray]]:
    """A file with one of ONNX Runtime's ops over random bytes, and feeds for it."""
    n, k = 24, 64
    blocks, packed = k // block, block * bits // 8
    tensors = {"q": RNG.integers(0, 256, (n, blocks, packed), dtype=np.uint8)}
    if looked_up:
        tensors["q"] = tensors["q"].reshape(n, -1)
    tensors["scale"] = RNG.uniform(0.01, 0.1, (n, blocks)).astype(np.float32)
    if zeros == "integers":
        tensors["zero"] = RNG.integers(0, 256, (n, (blocks * bits + 7) // 8), dtype=np.uint8)
    elif zeros == "floats":
        tensors["zero"] = RNG.uniform(0, 1 << bits, (n, blocks)).astype(np.float32)
    values = {name: ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in tensors.items()}
    stored = [values[name] for name in ("scale", "zero") if name in values]
    kind = ir.DataType.INT64 if looked_up else ir.DataType.FLOAT
    x = ir.Value(name="x", type=ir.TensorType(kind), shape=ir.Shape([5] if looked_up else [3, k]))
    attributes = {"bits": bits, "block_size": block}
    if looked_up:
        attributes |= {"gather_axis": 0, "quantize_axis": 1}
        node = ir.node("GatherBlockQuantized", [values["q"], x, *stored], attributes, domain="com.microsoft", name="e")
        feeds = {"x": RNG.integers(-n, n, 5)}
    else:
        attributes |= {"K": k, "N": n}
        node = ir.node("MatMulNBits", [x, values["q"], *stored], attributes, domain="com.microsoft", name="e")
        feeds = {"x": RNG.standard_normal((3, k)).astype(np.float32)}
    made = node.outputs[0]
    made.name, made.type = "y", ir.TensorType(ir.DataType.FLOAT)
    made.shape = ir.Shape([5, k] if looked_up else [3, n])
    graph = ir.Graph(
        [x], [made], nodes=[node], initializers=list(values.values()), name="g",
        opset_imports={"": 21, "com.microsoft": 1},
    )  # fmt: skip
    return save_graphs({"g": ir.Model(graph, ir_version=10)}, tmp_path, "g.data")["g"], feeds


@pytest.mark.parametrize("looked_up", [False, True], ids=["matmul", "lookup"])
@pytest.mark.parametrize("zeros", ["none", "integers", "floats"])
@pytest.mark.parametrize("block", [16, 32, 64])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_equal_to_the_engines_own_ops(bits: int, block: int, zeros: str, looked_up: bool, tmp_path: Path) -> None:
    if zeros == "floats" and (looked_up or bits == 8):
        pytest.skip("neither lookups nor products of 8 bits take float zero points")
    path, feeds = write(tmp_path, bits, block, zeros, looked_up)
    made, expected = PlainGraph(path).run(feeds), OrtGraph(path, EXACT).run(feeds)
    np.testing.assert_allclose(made["y"], expected["y"], rtol=1e-4, atol=1e-4)


def test_other_ops_of_the_model_stay(tmp_path: Path) -> None:
    path, _ = write(tmp_path, 4, 32, "none", False)
    model = ir.load(path)
    next(iter(model.graph)).op_type = "MatMulBnb4"
    ir.save(model, tmp_path / "other.onnx")
    assert [node.op_type for node in plain(tmp_path / "other.onnx").graph] == ["MatMulBnb4"]
