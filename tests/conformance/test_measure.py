"""A target that is no part of edgec measures a table of its own with the shared machine, and judges by it."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
from edgec.api import Bounds, Case, ClassRule, ConformanceTable, Legality, Row, Use, run_bench, verdict_of
from edgec.compiler.oracle.oracle import run

RULE = ClassRule(frozenset({"rows", "alpha"}), {"Softmax": {"axis": "only the last"}})


def graph(kind: str, rows: int, **attributes) -> ir.Model:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((rows, 4)))
    y = ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((rows, 4)))
    node = ir.Node("", kind, [x], ir.convenience.convert_attributes(attributes), outputs=[y], name="op")
    return ir.Model(ir.Graph([x], [y], nodes=[node], opset_imports={"": 24}, name="case"), ir_version=11)


def engine(node: ir.Node, x: np.ndarray) -> np.ndarray:
    """An engine with faults: LeakyRelu ignores its slope beyond one row, Softmax of 7 rows dies, Gelu is refused."""
    if node.op_type == "Gelu":
        raise NotImplementedError
    if node.op_type == "Softmax":
        if len(x) == 7:
            raise MemoryError
        shifted = np.exp(x - x.max(-1, keepdims=True))
        return shifted / shifted.sum(-1, keepdims=True)
    slope = node.attributes.get_float("alpha", 0.01) if len(x) == 1 else 0.01
    return np.where(x > 0, x, slope * x)


class ToyBench:
    """Three ops on one machine."""

    places = ("toy-1", "toy-2")

    def __init__(self, folder):
        self.table = folder / "table.json"
        self.ran = []

    def cases(self, quick):
        for rows in (1, 9) if quick else (1, 5, 9):
            yield self.case("Softmax", rows)
            yield self.case("LeakyRelu", rows, alpha=0.5)
        if not quick:
            yield self.case("Softmax", 7)
            yield self.case("Gelu", 1)

    @staticmethod
    def case(kind, rows, **attributes):
        shape = tuple(sorted({"rows": rows, **attributes}.items()))
        return Case(kind, shape, lambda: graph(kind, rows, **attributes))

    def shape_of(self, case):
        (node,) = case.make().graph
        return dict(RULE.shape(node, {"rows": node.inputs[0].shape[0]}))

    def run(self, place, cases):
        for case in cases:
            self.ran.append(case.name)
            model = case.make()
            x = np.random.default_rng(0).normal(size=tuple(model.graph.inputs[0].shape)).astype(np.float32)
            try:
                found = verdict_of({"y": engine(next(iter(model.graph)), x)}, run(model, {"x": x}), Bounds(1e-4))
            except NotImplementedError:
                found = "rejected", {}
            except MemoryError:
                found = "crash", {}
            yield Row(place, case.lowering, self.shape_of(case), *found)

    def tools(self):
        return {"toy": "1.0"}


@pytest.fixture
def bench(tmp_path):
    return ToyBench(tmp_path)


def measured(bench, *arguments):
    assert run_bench(bench, "toy", list(arguments)) == 0
    return ConformanceTable.load(bench.table)


def test_a_table_is_measured_and_judged_by(bench, capsys):
    table = measured(bench)
    assert table.tools == {"toy-1": {"toy": "1.0"}}
    assert table.summary() == {"toy-1": {"right": 4, "rejected": 1, "wrong": 2, "crash": 1}}
    assert json.loads(capsys.readouterr().out)["wrong"] == 2
    judge = Legality("toy-1", table.rows, RULE)

    def problem(kind, rows, **attributes):
        (node,) = graph(kind, rows, **attributes).graph
        return judge.problem(Use(kind, RULE.shape(node, {"rows": rows}), "op"))

    assert problem("Softmax", 5) is None
    assert "the engine crashes at rows 7" in problem("Softmax", 7)
    assert "only the shapes that were run" in problem("Softmax", 3)
    assert problem("LeakyRelu", 1, alpha=0.5) is None
    assert "computes wrong numbers" in problem("LeakyRelu", 9, alpha=0.5)
    assert "refuses it" in problem("Gelu", 1)
    assert "never run on toy-1 in this form (approximate tanh" in problem("Gelu", 1, approximate="tanh")


def test_only_what_is_missing_is_run_again(bench):
    measured(bench, "--quick")
    bench.ran.clear()
    table = measured(bench, "--missing")
    assert bench.ran == ["Softmax rows=5", "LeakyRelu alpha=0.5 rows=5", "Softmax rows=7", "Gelu rows=1"]
    assert len(table.rows) == 8


def test_a_run_replaces_what_it_covers(bench):
    measured(bench)
    measured(bench, "--on", "toy-2", "--only", "Softmax")
    table = measured(bench, "--quick", "--only", "Softmax")
    assert {(r.place, r.lowering, r.shape["rows"]) for r in table.rows if r.lowering == "Softmax"} == {
        *(("toy-1", "Softmax", rows) for rows in (1, 9)),
        *(("toy-2", "Softmax", rows) for rows in (1, 5, 7, 9)),
    }
    assert sum(r.lowering == "LeakyRelu" for r in table.rows) == 3
    assert {r.lowering for r in measured(bench, "--quick").rows if r.place == "toy-1"} == {"Softmax", "LeakyRelu"}


def test_the_summary_runs_nothing(bench, capsys):
    measured(bench, "--quick")
    bench.ran.clear()
    capsys.readouterr()
    measured(bench, "--summary")
    assert json.loads(capsys.readouterr().out) == {"toy-1": {"right": 3, "rejected": 0, "wrong": 1, "crash": 0}}
    assert bench.ran == []
