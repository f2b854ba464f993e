"""MNN's wrapper around a context binary, read by MNN's own converter: the attributes that its QNN plugin asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgec.targets.mnn.file.writer import dump
from edgec.targets.qnn.htp.context_binary import GraphSpec, TensorSpec, read
from edgec.targets.qnn.mnn_wrapper import write_wrapper


def plugin_of(path: Path) -> tuple[dict, dict]:
    """The net, and the Plugin op's attributes by key: the one field that each of them has."""
    net = dump(path)
    op = net["oplists"][-1]
    assert (op["type"], op["main_type"], op["main"]["type"]) == ("Plugin", "Plugin", "QNN")
    found = {}
    for row in op["main"]["attr"]:
        value = next((row[key] for key in ("s", "i", "tensor", "list") if key in row), 0)
        found[row["key"]] = value
    return net, found


def test_the_wrapper_of_a_model_names_its_binary(emitted):
    path = emitted.folder / "target_ctx.mnn"
    binary = read(emitted.folder / "target_ctx.bin")
    net, attributes = plugin_of(path)
    graphs = [binary.graphs[name] for name in attributes["allGraphName"]["s"]]
    assert set(attributes["allGraphName"]["s"]) == set(binary.graphs)
    assert attributes["path"] == "target_ctx.bin"
    assert attributes["size"]["i"] == [(emitted.folder / "target_ctx.bin").stat().st_size, 0]
    names, outputs = attributes["inputs"]["s"], attributes["outputs"]["s"]
    assert net["tensorName"] == [*names, *outputs, "qnn/plugin/op"]
    assert net["outputName"] == outputs
    assert [op["name"] for op in net["oplists"][:-1]] == names
    shapes = list(attributes["allInputShape"]["i"])
    for at, graph in enumerate(graphs):
        inputs, made = ({spec.name: spec for spec in side} for side in (graph.inputs, graph.outputs))
        for name in names:
            size = len(inputs[name].shape)
            assert tuple(shapes[:size]) == inputs[name].shape
            del shapes[:size]
        for index, name in enumerate(outputs):
            tensor = attributes[f"o_{at}_{index}"]
            assert tuple(tensor["dims"]) == made[name].shape
            assert tensor["dataType"] == {"float16": "DT_HALF", "float32": "DT_FLOAT"}[made[name].dtype]
    assert shapes == []
    part = next(iter(emitted.emission.parts.values()))
    assert part["details"]["mnn_wrapper"] == "target/target_ctx.mnn"


def graph(tokens: int, turned: bool = False, dtype: str = "uint16") -> GraphSpec:
    inputs = (TensorSpec("ids", "int32", (1, tokens)), TensorSpec("x", "uint8", (tokens, 3)))
    return GraphSpec(inputs[::-1] if turned else inputs, (TensorSpec("y", dtype, (tokens, 4)),))


def test_buckets_in_another_order_of_tensors_and_graphs_of_other_parts(tmp_path):
    binary = tmp_path / "m_ctx.bin"
    with binary.open("wb") as file:
        file.truncate(5 * 2**32 + 0x80000001)  # both halves count, the low one with its highest bit
    own = [("a", graph(1)), ("b", graph(8, turned=True))]
    assert write_wrapper(tmp_path / "m.mnn", binary, own, ["of another part"]) is None
    net, attributes = plugin_of(tmp_path / "m.mnn")
    assert attributes["allGraphName"]["s"] == ["a", "b", "of another part"]
    assert attributes["allInputShape"]["i"] == [1, 1, 1, 3, 1, 8, 8, 3]
    assert attributes["size"]["i"] == [-0x7FFFFFFF, 5]
    assert [op["main"]["dtype"] for op in net["oplists"][:2]] == ["DT_INT32", "DT_UINT8"]
    assert attributes["o_1_0"] == {"dims": [8, 4], "dataFormat": "NCHW", "dataType": "DT_UINT16"}


@pytest.mark.parametrize("dtype", ["int64", "bfloat16"])
def test_types_that_mnn_does_not_have(tmp_path, dtype):
    why = write_wrapper(tmp_path / "m.mnn", tmp_path / "none.bin", [("a", graph(1, dtype=dtype))], [])
    assert why == f"MNN has no tensors of {dtype}, which `y` is"
    assert not (tmp_path / "m.mnn").exists()
