"""The shared check goes red: wrong numbers, a changed interface, a second run that changes, an illegal result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.weights import from_array
from edgec.compiler.oracle.compare import random_feeds, relative_error
from edgec.compiler.pipeline.pass_check import CheckFailed, from_text, run_and_check
from edgec.compiler.pipeline.pass_interface import Pass, Scope, Tolerance
from edgec.passes.quantize import Quantize

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
m (float[B,4] x) => (float[B,4] y) <float[4] s = {1.0, 2.0, 3.0, 4.0}>
{ a = Mul(x, s)  b = Identity(a)  y = Relu(b) }"""


@dataclass(frozen=True)
class Does(Pass):
    """Does what it is told, once or every time."""

    name: ClassVar[str] = "does"
    what: Callable[[Module], int]
    claims: float = 0.0

    @property
    def tolerance(self) -> Tolerance:
        return Tolerance(self.claims)

    def run(self, module: Module, scope: Scope) -> int:
        return self.what(module)


def drop_identity(module: Module) -> int:
    found = [node for node in module.nodes("Identity") if node.inputs[0] is not None]
    for node in found:
        module.bypass(node, node.inputs[0])  # type: ignore[arg-type]
    return len(found)


def scale_by(factor: float) -> Callable[[Module], int]:
    def change(module: Module) -> int:
        value = module.main.graph.initializers["s"]
        values = np.array([1, 2, 3, 4], np.float32)
        if not np.array_equal(value.const_value.numpy(), values):  # type: ignore[union-attr]
            return 0
        value.const_value = from_array("s", values * np.float32(factor))
        return 1

    return change


def test_a_good_pass() -> None:
    result = run_and_check(Does(drop_identity), TEXT)
    assert (result.ops, result.changes, result.errors) == (["Mul", "Relu"], 1, {"y": 0.0})


def test_the_module_given_is_not_touched() -> None:
    module = from_text(TEXT)
    run_and_check(Does(drop_identity), module)
    assert [node.op_type for node in module.nodes()] == ["Mul", "Identity", "Relu"]


@pytest.mark.parametrize("factor", [1.001, 0.999, 1000.0, -1.0, 0.0, float("nan"), float("inf")])
def test_wrong_numbers(factor: float) -> None:
    with pytest.raises(CheckFailed, match="moved output `y`"):
        run_and_check(Does(scale_by(factor), claims=1e-4), TEXT)


def test_numbers_within_the_claim() -> None:
    assert run_and_check(Does(scale_by(1.001), claims=1e-2), TEXT).errors["y"] == pytest.approx(1e-3, rel=0.01)


def test_exact_means_equal_bits() -> None:
    with pytest.raises(CheckFailed, match="claims to be exact"):
        run_and_check(Does(scale_by(np.nextafter(np.float32(1), np.float32(2)))), TEXT)


def test_a_second_run_that_changes() -> None:
    with pytest.raises(CheckFailed, match="second run of `does` made 1 changes"):
        run_and_check(Does(lambda module: 1), TEXT)


def test_a_second_run_that_does_not_count() -> None:
    def rename(module: Module) -> int:
        node = next(module.nodes("Relu"))
        node.name = f"{node.name}_"
        return 0

    with pytest.raises(CheckFailed, match="counted no change"):
        run_and_check(Does(rename), TEXT)


@pytest.mark.parametrize("change", ["name", "type", "rank", "dimension", "order"])
def test_a_changed_interface(change: str) -> None:
    text = TEXT.replace("(float[B,4] x)", "(float[B,4] x, float[B,4] unused)")

    def spoil(module: Module) -> int:
        graph = module.main.graph
        value = graph.inputs[1]
        if change == "name":
            value.name = "other"
        elif change == "type":
            value.dtype = ir.DataType.FLOAT16
        elif change == "rank":
            value.shape = ir.Shape(["B", 4, 1])
        elif change == "dimension":
            value.shape = ir.Shape(["B", 5])
        else:
            graph.inputs.append(graph.inputs.pop(0))
        return 1

    with pytest.raises(CheckFailed, match=r"changed the inputs|had the shape"):
        run_and_check(Does(spoil), text)


def test_an_illegal_result() -> None:
    def unname(module: Module) -> int:
        next(module.nodes("Relu")).name = ""
        return 1

    with pytest.raises(CheckFailed, match="is not legal"):
        run_and_check(Does(unname), TEXT)


def test_a_level_it_does_not_take() -> None:
    module = from_text(TEXT, Level.PLACED)
    with pytest.raises(CheckFailed, match="does not take a module at level `placed`"):
        run_and_check(Does(drop_identity), module)


def test_a_broken_quantisation_goes_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quantize, "tolerance", Tolerance(1e-6))
    text = TEXT.replace("{ a = Mul(x, s)", "{ t = MatMul(x, w) a = Mul(t, s)").replace(
        "4.0}>", f"4.0}}, float[4,4] w = {{{', '.join(f'0.{i}' for i in range(10, 26))}}}>"
    )
    with pytest.raises(CheckFailed, match="`quantize` moved output"):
        run_and_check(Quantize(weights="int8", block="channel"), text)


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        ([1.0, -2.0], [1.0, -2.0], 0.0),
        ([1.0, -2.0], [1.0, -2.5], 0.25),
        ([0.0, 0.0], [0.0, 1e-9], np.inf),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.nan, 1.0], [0.0, 1.0], np.inf),
        ([1.0], [1.0, 1.0], np.inf),
    ],
)
def test_relative_error(a: list[float], b: list[float], error: float) -> None:
    assert relative_error(np.array(a), np.array(b)) == error


def test_feeds_index_into_what_they_look_up(draft: Module) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    m (int64[N] ids, bool[N] keep) => (float[N,2] y)
    <float[3,2] t = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}> { y = Gather(t, ids) }"""
    feeds = random_feeds(from_text(text).main.graph)
    assert feeds["ids"].max() < 3
    assert feeds["keep"].dtype == bool
    decoder = random_feeds(draft.main.graph, draft.arch)
    assert decoder["attention_mask"].shape == (1, 1, 3, 8)
    assert decoder["past_key_0_in"].shape == (1, 2, 5, 32)
