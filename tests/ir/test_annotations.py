"""A fact that edgec does not know (`n:m` zeros), defined here: what it survives, who shows it, how it goes red."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.commands.inspect import describe
from edgec.compiler.diagnostics.diagnostic import EngineError, Span
from edgec.compiler.diagnostics.wording import of_all_layers
from edgec.compiler.ir import annotations
from edgec.compiler.ir.annotations import (
    DEVICE,
    FORMAT,
    ROTATED,
    SCORES,
    Annotation,
    Subject,
    Transform,
    define,
)
from edgec.compiler.ir.fold_into_weights import rotate_columns, scale_rows, set_weight
from edgec.compiler.ir.graph_text import module_text
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.weights import Weight, as_weight, cast, derive, from_array, transpose
from edgec.compiler.pipeline.graphsurgeon import graphsurgeon_pass
from edgec.compiler.pipeline.pass_interface import Pass, Scope
from edgec.compiler.pipeline.run_steps import run_pipeline
from edgec.compiler.pipeline.step import Step
from edgec.passes.quantize import Quantize
from edgec.passes.rotate import Rotate

UP = "layers.0.mlp.up_proj"


@dataclass(frozen=True)
class Pattern:
    """Of every `of` weights along the inputs at most `keep` are not zero."""

    keep: int
    of: int

    def __str__(self) -> str:
        return f"{self.keep}:{self.of}"

    @classmethod
    def parse(cls, text: str) -> Pattern:
        return cls(*map(int, text.split(":")))


def _zeros(value: ir.Value, pattern: Pattern) -> Iterator[str]:
    held = value.const_value
    assert held is not None
    rows = as_weight(held).rows(0, 2).reshape(-1, pattern.of)
    if (np.count_nonzero(rows, axis=1) > pattern.keep).any():
        yield f"is not {pattern}"


def step(pass_: Pass) -> Step:
    return Step(pass_.name, pass_, None, (), Span("p.edge", 1, 1, 1, 2))


KEEPS = frozenset(set(Transform) - {Transform.ROTATE, Transform.MEASURE})
SPARSE = Annotation[Pattern](
    "test.sparse", Subject.TENSOR, KEEPS, show=str, parse=Pattern.parse, check=_zeros, prefix="sparse "
)


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotations, "TABLE", {**annotations.TABLE})
    define(SPARSE)


def pruned(module: Module, name: str = UP, pattern: Pattern = Pattern(2, 4)) -> Weight:
    """Half of the weights of one linear set to zero, and said so."""
    linear = next(x for x in linears(module) if x.name == name)
    assert linear.stored is not None
    w = linear.stored.numpy().copy().reshape(-1, 4)
    w[:, :2] = 0
    set_weight(linear.value, from_array(name, w.reshape(linear.stored.dims)))
    held = as_weight(linear.value.const_value)  # type: ignore[arg-type]
    SPARSE.set(held, pattern)
    return held


def test_a_fact_survives_what_it_says_it_survives() -> None:
    w = from_array("w", np.zeros((4, 8), np.float32))
    SPARSE.set(w, Pattern(2, 4))
    for made in (cast(w, ir.DataType.FLOAT16), scale_rows(w, np.ones(4), "scaled"), transpose(w)):
        assert SPARSE.get(made) == Pattern(2, 4)
        assert made.ended == ()
    rotated = rotate_columns(w, np.eye(8), "rotated")
    assert SPARSE.get(rotated) is None
    assert rotated.ended == ("rotation ends 2:4 on `w`",)
    assert cast(rotated, ir.DataType.FLOAT16).ended == rotated.ended  # it stays said
    scales = derive("s", ir.DataType.FLOAT, (4,), lambda a, b: np.zeros(b - a, np.float32), w, Transform.MEASURE)
    assert (SPARSE.get(scales), scales.ended) == (None, ())


def test_integers_have_the_facts_of_their_floats_and_a_format(draft: Module) -> None:
    pruned(draft)
    Quantize(weights="int4").run(draft, Scope(on=(UP,)))
    quant = next(x for x in linears(draft) if x.name == UP).quant
    assert quant is not None
    assert SPARSE.get(quant.q) == Pattern(2, 4)
    assert SPARSE.get(quant.scale) is None
    assert FORMAT.get(quant.q) == quant.format
    assert violations(draft) == []


def test_the_user_is_told_once_which_pass_ended_a_fact(draft: Module) -> None:
    pruned(draft)
    told: list[str] = []
    steps = [step(Rotate()), step(Rotate()), step(Quantize(weights="int4"))]
    results = run_pipeline(draft, steps, progress=told.append)
    note = f"rotation ends 2:4 on `{UP}`"
    assert [note in result.notes for result in results] == [True, False, False]
    assert sum(note in line for line in told) == 1
    assert ROTATED.get(draft.main) == ("residual", "values")


def test_what_is_said_of_several_layers_is_said_once() -> None:
    notes = [
        "`layers.0.up` is dense: 2 of 3",
        "`norm` too",
        "`layers.11.up` is dense: 2 of 3",
        "`layers.1.up` is dense: 1 of 3",
    ]
    assert of_all_layers(notes) == ["`layers.*.up` is dense: 2 of 3 (2 times)", "`norm` too", notes[3]]


def test_legality_checks_a_fact_between_passes(draft: Module) -> None:
    pruned(draft)
    assert violations(draft) == []

    class Fill(Pass):
        """Put something where zeros were promised."""

        name = "fill"

        def run(self, module: Module, scope: Scope) -> int:
            pruned(module, pattern=Pattern(1, 4))
            return 1

    with pytest.raises(EngineError, match=r"annotations: `layers.0.mlp.up_proj.weight` in graph `main` is not 1:4"):
        run_pipeline(draft, [step(Fill())])


def test_dumps_and_inspect_show_a_fact(draft: Module, tmp_path: Path) -> None:
    pruned(draft)
    DEVICE.set(draft.node(UP), "npu")  # type: ignore[arg-type]
    text = module_text(draft)
    assert next(line for line in text.split("\n") if f"has  {UP}.weight" in line).endswith("  sparse 2:4")
    assert next(line for line in text.split("\n") if line.startswith(f"  {UP} ")).endswith("  @npu")
    tensor = ir.Tensor(np.zeros((8, 4), np.float32), name="w")
    tensor.metadata_props[SPARSE.key] = "2:4"
    x, w, y = ir.val("x", ir.DataType.FLOAT, [1, 8]), ir.val("w", const_value=tensor), ir.val("y")
    graph = ir.Graph([x], [y], nodes=[ir.Node("", "MatMul", [x, w], outputs=[y])], initializers=[w])
    y.type, y.shape, graph.name, graph.opset_imports[""] = ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, 4]), "g", 24
    ir.save(ir.Model(graph, ir_version=11), tmp_path / "m.onnx")
    assert describe(tmp_path / "m.onnx")["annotations"] == {SPARSE.key: {"2:4": 1}}


def test_graphsurgeon_hands_back_tensors_with_their_facts() -> None:
    """Constants that it has not changed are the same objects, small ones too."""
    w = ir.val("w", const_value=ir.Tensor(np.zeros((8, 4), np.float32), name="w"))
    SPARSE.set(w.const_value, Pattern(2, 4))  # type: ignore[arg-type]
    x, y = ir.val("x", ir.DataType.FLOAT, [1, 8]), ir.val("y", ir.DataType.FLOAT, [1, 4])
    nodes = [ir.Node("", "MatMul", [x, w], outputs=[ir.val("z")], name="a")]
    nodes.append(ir.Node("", "Identity", [nodes[0].outputs[0]], outputs=[y], name="b"))
    graph = ir.Graph([x], [y], nodes=nodes, initializers=[w], opset_imports={"": 24}, name="g")
    annotations.RANGES.set(graph, "mse")
    module = Module("m", {"main": ir.Model(graph, ir_version=11)})

    @graphsurgeon_pass
    def unname(graph) -> int:  # type: ignore[no-untyped-def]
        """Rename a node."""
        graph.nodes[1].name = "c"
        return 1

    assert unname().run(module, Scope()) == 1
    held = module.main.graph.initializers["w"].const_value
    assert held is not None
    assert SPARSE.get(held) == Pattern(2, 4)
    assert annotations.RANGES.get(module.main.graph) == "mse"


def test_keys_are_defined_once_and_text_is_read_back() -> None:
    with pytest.raises(ValueError, match=r"`test\.sparse` is defined already"):
        define(SPARSE)
    node = ir.node("Attention", [ir.val("q")])
    SCORES.set(node, (-1.5, 2.25))
    assert node.metadata_props[SCORES.key] == "-1.5 2.25"
    assert SCORES.get(node) == (-1.5, 2.25)
    SCORES.remove(node)
    assert SCORES.get(node) is None
    silent = Annotation[int]("test.silent", Subject.NODE)
    with pytest.raises(ValueError, match="has no text"):
        silent.set(node, 1)


def test_a_manifest_states_facts_without_their_format() -> None:
    w = from_array("w", np.zeros((4, 8), np.int8))
    FORMAT.set(w, annotations.WeightFormat(8, None, True))
    SPARSE.set(w, Pattern(2, 4))
    assert json.dumps(annotations.texts(Subject.TENSOR, w)) == '{"test.sparse": "2:4"}'
