"""Local functions of an ONNX model: inlined under names that stay readable, and bounded."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import onnx
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.sources.onnx.load_onnx import load_onnx
from onnx import TensorProto, helper

OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("d", 1)]


def function(name: str, calls: list[str], op: str | None = None) -> onnx.FunctionProto:
    """f(x): the calls one behind the other, then `op`; of neither, x itself."""
    names = ["x", *(f"t{i}" for i in range(len(calls)))]
    nodes = [helper.make_node(call, [a], [b], domain="d") for call, a, b in zip(calls, names, names[1:], strict=False)]
    if op is not None:
        nodes.append(helper.make_node(op, [names[-1]], ["y"], name="last"))
    return helper.make_function("d", name, ["x"], ["y" if op else names[-1]], nodes, OPSETS)


def model(*functions: onnx.FunctionProto, calls: int = 1) -> onnx.ModelProto:
    names = ["a", *(f"v{i}" for i in range(calls - 1)), "b"]
    nodes = [helper.make_node("f0", [x], [y], domain="d") for x, y in pairwise(names)]
    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "ab")
    graph = helper.make_graph(nodes, "g", [a], [b])
    return helper.make_model(graph, functions=list(functions), opset_imports=OPSETS, ir_version=10)


def nested(depth: int, fan: int, leaf: str | None = "Relu") -> onnx.ModelProto:
    """Functions that call the next one `fan` times, `depth` deep."""
    return model(*(function(f"f{i}", [f"f{i + 1}"] * fan) for i in range(depth)), function(f"f{depth}", [], leaf))


BOMBS: dict[str, tuple[Callable[[], onnx.ModelProto], str, str]] = {
    "two to the 40": (lambda: nested(40, 2), "E0377", "becomes more than 10^12 nodes"),
    "of nothing": (lambda: nested(40, 2, None), "E0377", "nodes as its functions are inlined"),
    "many calls": (lambda: nested(3, 60), "E0377", "becomes 435,661 nodes"),
    "a chain": (lambda: nested(5000, 1), "E0377", "call each other 5001 deep"),
    "itself": (lambda: model(function("f0", ["f0"])), "E0375", "its function `d::f0` calls `d::f0`"),
    "a circle": (
        lambda: model(function("f0", ["f1"] * 2), function("f1", ["f0"])),
        "E0375",
        "calls `d::f1` calls `d::f0`",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_functions_that_multiply_end_with_an_error(
    tmp_path: Path, golden_error: Callable[..., None], name: str
) -> None:
    make, code, says = BOMBS[name]
    onnx.save(make(), tmp_path / "m.onnx")
    begun = time.monotonic()
    with pytest.raises(PlanError) as caught:
        load_onnx("m", tmp_path / "m.onnx", 0)
    assert time.monotonic() - begun < 10
    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.code, says in diagnostic.message) == (code, True), diagnostic.message
    if name == "two to the 40":
        golden_error("E0377", caught.value, hide={str(tmp_path): "TMP"})


def test_calls_are_numbered(tmp_path: Path) -> None:
    onnx.save(model(function("f0", ["f1", "f1"], "Abs"), function("f1", [], "Relu"), calls=2), tmp_path / "m.onnx")
    nodes = list(load_onnx("m", tmp_path / "m.onnx", 0).nodes())
    assert [node.op_type for node in nodes] == ["Relu", "Relu", "Abs"] * 2
    names = [node.name for node in nodes]
    assert len(set(names)) == 6
    assert all(name.startswith("last") for name in names)


def test_thousands_of_calls_take_no_longer_each(tmp_path: Path) -> None:
    """onnx-ir's own search for names takes minutes for these 4,096."""
    onnx.save(nested(12, 2), tmp_path / "m.onnx")
    begun = time.monotonic()
    assert len(list(load_onnx("m", tmp_path / "m.onnx", 0).nodes())) == 4096
    assert time.monotonic() - begun < 20
