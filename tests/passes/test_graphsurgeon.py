"""Passes written with onnx-graphsurgeon: parameters, laziness, names and metadata kept, 4-bit tensors refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import EdgecError, Span
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.weights import Weight, from_array
from edgec.compiler.oracle.compare import errors
from edgec.compiler.pipeline.graphsurgeon import graphsurgeon_pass
from edgec.compiler.pipeline.pass_check import CheckFailed, from_text, run_and_check
from edgec.compiler.pipeline.pass_interface import Scope, Tolerance
from edgec.compiler.plan.parameters import param, parameters
from edgec.compiler.registry import pass_fault

ROWS = ", ".join(str(i / 7) for i in range(1024))
TEXT = f"""<ir_version: 10, opset_import: ["" : 21]>
m (float[B,32] x) => (float[B,32] y) <float[32,32] w = {{{ROWS}}}, float[32] s = {{{", ".join(["2.0"] * 32)}}}>
{{ a = Identity(x)  b = MatMul(a, w)  y = Mul(b, s) }}"""


@graphsurgeon_pass
def drop_identity(graph: gs.Graph) -> int:
    """Remove Identity nodes.

    More words.
    """
    found = [node for node in graph.nodes if node.op == "Identity"]
    for node in found:
        for reader in list(node.outputs[0].outputs):
            reader.inputs = [node.inputs[0] if value is node.outputs[0] else value for value in reader.inputs]
    return len(found)


@graphsurgeon_pass(name="fold_scale", tolerance=Tolerance(1e-5))
def fold(graph: gs.Graph, scope: Scope, *, largest: float = param(4.0, doc="scales above are left alone")) -> int:
    """Fold a Mul into the weight before it."""
    count = 0
    for node in [node for node in graph.nodes if node.op == "Mul"]:
        weight, scale = node.i().inputs[1], node.inputs[1]
        if not scope.selects(node.name) or np.abs(scale.values).max() > largest:
            scope.skip(node.name, "too large")
            continue
        weight.values = weight.values * scale.values
        node.i().outputs = node.outputs
        node.outputs = []
        count += 1
    return count


def test_is_a_pass() -> None:
    assert pass_fault(drop_identity) is None
    assert (drop_identity.name, drop_identity.selects, drop_identity.__module__) == ("drop_identity", False, __name__)
    assert (drop_identity.__doc__ or "").splitlines()[0] == "Remove Identity nodes."
    assert [(p.name, p.types, p.default) for p in parameters(fold)] == [("largest", (float,), 4.0)]
    assert fold.selects


def test_removes() -> None:
    result = run_and_check(drop_identity(), TEXT)
    assert (result.ops, result.changes, result.errors) == (["MatMul", "Mul"], 1, {"y": 0.0})


def test_changes_weights_within_its_tolerance() -> None:
    result = run_and_check(fold(), TEXT)
    assert (result.ops, result.changes) == (["Identity", "MatMul"], 1)


def test_parameters_and_scope_reach_the_function() -> None:
    result = run_and_check(fold(largest=1.0), TEXT)
    assert (result.changes, result.skips[0].reason) == (0, "too large")
    assert run_and_check(fold(), TEXT, except_=["Mul_*"]).changes == 0


def test_wrong_numbers_are_seen() -> None:
    @graphsurgeon_pass
    def spoil(graph: gs.Graph) -> None:
        values = graph.tensors()["w"].values
        if values[0, 1] > 0:
            values[0] *= np.float32(-1.5)

    with pytest.raises(CheckFailed, match="moved output"):
        run_and_check(spoil(), TEXT)


@pytest.mark.parametrize("gives", ["nothing", "graph"])
def test_changes_are_found_when_they_are_not_counted(gives: str) -> None:
    @graphsurgeon_pass
    def uncounted(graph: gs.Graph) -> gs.Graph | None:
        drop_identity.function(graph)
        return graph if gives == "graph" else None

    assert run_and_check(uncounted(), TEXT).changes == 1


def test_a_pass_that_only_looks_changes_nothing() -> None:
    @graphsurgeon_pass
    def look(graph: gs.Graph) -> None:
        assert graph.tensors()["w"].values.shape == (32, 32)

    module = from_text(TEXT)
    model = module.main
    assert look().run(module, Scope()) == 0
    assert module.main is model


def test_weights_nobody_looks_at_stay_lazy(draft: Module) -> None:
    def never(start: int, stop: int) -> np.ndarray:
        raise AssertionError("read")

    value = draft.main.graph.initializers["layers.0.mlp.up_proj.weight"]
    value.const_value = Weight(value.name or "", ir.DataType.FLOAT, (384, 128), never, "nowhere")

    @graphsurgeon_pass
    def rename(graph: gs.Graph) -> int:
        next(node for node in graph.nodes if node.name == "norm").name = "last_norm"
        return 1

    before = draft.main.graph.initializers
    rename().run(draft, Scope())
    after = draft.main.graph.initializers
    assert draft.node("last_norm") is not None
    assert set(before) == set(after)
    assert after["layers.0.mlp.up_proj.weight"].const_value is value.const_value
    assert after["embed_tokens.weight"].const_value is before["embed_tokens.weight"].const_value


def test_a_decoder_comes_back_as_it_was(draft: Module) -> None:
    """Names, metadata, symbolic shapes and every bit of the outputs."""
    whole = draft.clone()
    node = draft.node("layers.1.mlp.act")
    assert node is not None
    node.metadata_props["mark"] = "kept"

    @graphsurgeon_pass
    def touch(graph: gs.Graph) -> int:
        return 1

    touch().run(draft, Scope())
    assert [n.name for n in draft.nodes()] == [n.name for n in whole.nodes()]
    assert [str(v.shape) for n in draft.nodes() for v in n.outputs] == [
        str(v.shape) for n in whole.nodes() for v in n.outputs
    ]
    found = draft.node("layers.1.mlp.act")
    assert found is not None
    assert found.metadata_props["mark"] == "kept"
    assert set(errors(whole, draft).values()) == {0.0}


def test_four_bit_tensors_are_refused(golden_error) -> None:
    module = from_text(TEXT)
    graph = module.main.graph
    q = ir.Value(name="q", const_value=from_array("q", np.zeros((2, 2), ir.DataType.INT4.numpy())))
    graph.register_initializer(q)
    with pytest.raises(EdgecError) as raised:
        drop_identity().run(module, Scope(origin=Span("plan.edge", 2, 3, 2, 9)))
    golden_error("E0414", raised.value)


def test_without_graphsurgeon(monkeypatch: pytest.MonkeyPatch, golden_error) -> None:
    monkeypatch.setitem(sys.modules, "onnx_graphsurgeon", None)
    with pytest.raises(EdgecError) as raised:
        drop_identity().run(from_text(TEXT), Scope())
    golden_error("E0415", raised.value)


def test_returning_something_else() -> None:
    @graphsurgeon_pass
    def odd(graph: gs.Graph) -> str:
        return "done"

    with pytest.raises(EdgecError, match="`odd` returned a str"):
        odd().run(from_text(TEXT), Scope())


def test_an_argument_that_is_no_parameter() -> None:
    with pytest.raises(TypeError, match="argument `factor` has to be keyword-only and made by `param`"):

        @graphsurgeon_pass
        def odd(graph: gs.Graph, factor: float = 2.0) -> int:
            return 0


def test_use_from_a_plan(tmp_path: Path) -> None:
    """`use "mine.py"` finds the pass a decorated function became."""
    from edgec.dsl import load_plan

    (tmp_path / "mine.py").write_text(
        "from edgec.compiler.pipeline.graphsurgeon import graphsurgeon_pass\n"
        "from edgec.compiler.plan.parameters import param\n\n"
        "@graphsurgeon_pass\n"
        "def my_pass(graph, *, times: int = param(1, doc='how often', minimum=1)) -> int:\n"
        "    '''Do nothing.'''\n"
        "    return 0\n"
    )
    model = Path(__file__).resolve().parents[2] / "examples" / "models" / "pycode-qwen2"
    (tmp_path / "plan.edge").write_text(
        f'plan p\nuse "mine.py"\ndevice host\nmodel m {{ source = hf("{model}") context = 64 }}\n'
        "pipeline c { my_pass (times = 3) }\ndeploy m on cpu through c as ort\n"
    )
    plan = load_plan(tmp_path / "plan.edge", [])
    step = plan.pipelines["c"].steps[0]
    assert (step.pass_name, vars(step.pass_)["times"]) == ("my_pass", 3)
