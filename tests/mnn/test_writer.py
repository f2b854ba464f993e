"""The graph writer reads back what MNN's converter made of its JSON, and believes nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import EngineError
from edgec.targets.mnn.file import op_parameters as tables
from edgec.targets.mnn.file.writer import Net, dump
from edgec.targets.mnn.run.engine import MnnGraph


def scaled(values: np.ndarray) -> Net:
    net = Net()
    x = net.input("x", [-1, values.size], "DT_FLOAT")
    net.one("BinaryOp", [x, net.const("w", values)], "y", *tables.binary("MUL"))
    return net


def test_constants_keep_every_bit(tmp_path):
    values = np.random.default_rng(0).normal(size=257).astype(np.float32) * np.float32(1e-7)
    scaled(values).write(tmp_path / "net.mnn", ["y"])
    session = MnnGraph(tmp_path / "net.mnn", ["x"], ["y"], "normal", 1, "MNN")
    got = session.run({"x": np.ones((2, 257), np.float32)})["y"]
    session.close()
    np.testing.assert_array_equal(got, np.stack([values, values]))


def test_the_same_graph_gives_the_same_bytes(tmp_path):
    for name in ("a.mnn", "b.mnn"):
        scaled(np.ones(3, np.float32)).write(tmp_path / name, ["y"])
    assert (tmp_path / "a.mnn").read_bytes() == (tmp_path / "b.mnn").read_bytes()
    assert [op["type"] for op in dump(tmp_path / "a.mnn")["oplists"]] == ["Input", "Const", "BinaryOp"]


def test_an_op_mnn_does_not_know_is_an_error(tmp_path):
    net = scaled(np.ones(3, np.float32))
    net.ops[-1]["type"] = "NoSuchOp"
    with pytest.raises(EngineError, match=r"E0701|E099"):
        net.write(tmp_path / "net.mnn", ["y"])


def test_a_file_that_cannot_be_written_is_an_error(tmp_path, golden_error):
    with pytest.raises(EngineError) as caught:
        scaled(np.ones(3, np.float32)).write(tmp_path / "missing" / "net.mnn", ["y"])
    golden_error("E0701", caught.value)


def test_a_tensor_has_one_maker():
    net = scaled(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="already has a tensor `y`"):
        net.tensor("y")
