"""A graph is proven once, and no further run is begun once runs have taken long."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from edgec.compiler.oracle import oracle
from edgec.compiler.proof import prove
from edgec.compiler.proof.errors import FLOAT32
from edgec.compiler.proof.kept_proof import proven_once
from edgec.compiler.proof.not_taken import NotTaken
from edgec.compiler.proof.prove import Proof, Proven

TEXT = '<ir_version: 10, opset_import: ["" : 17]> m (float[1,4] x) => (float[1,4] y) { h = Mul (x, w) y = Tanh (h) }'


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path))


def graph(factor: float = 2.0) -> ir.Model:
    model = onnx.parser.parse_model(TEXT)
    weight = np.full((400, 4), factor, np.float32)[:1]
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    for node in model.graph.node:
        node.name = node.op_type.lower()
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


class Engine:
    """ONNX Runtime, or one that adds a half to every Tanh."""

    def __init__(self, wrong: bool = False) -> None:
        self.runs, self._off = 0, 0.5 if wrong else 0.0

    def open(self, model: ir.Model) -> Engine:
        self._model = model
        return self

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.runs += 1
        made = oracle.run(self._model, feeds)
        return {name: array + np.float32(self._off if name == "y" else 0) for name, array in made.items()}

    def close(self) -> None:
        pass


def proven(engine: Engine, model: ir.Model, version: str = "1", said: list[str] | None = None) -> Proven:
    proof = Proof(model, "m", "the engine", FLOAT32, say=(said if said is not None else []).append)
    return proven_once(proof, [version], lambda: proof.judge(engine.open))


def test_the_same_graph_is_not_run_again() -> None:
    engine, said = Engine(), list[str]()
    first = proven(engine, graph())
    runs = engine.runs
    again = proven(engine, graph(), said=said)
    assert (again.facts(), engine.runs) == (first.facts(), runs)
    assert any("in the cache" in line for line in said)


def test_other_weights_and_another_engine_are() -> None:
    engine = Engine()
    proven(engine, graph())
    for model, version in ((graph(3.0), "1"), (graph(), "2")):
        runs = engine.runs
        proven(engine, model, version)
        assert engine.runs > runs


def test_what_an_engine_cannot_have_is_kept_too() -> None:
    engine = Engine(wrong=True)
    told = []
    for _ in range(2):
        with pytest.raises(NotTaken) as raised:
            proven(engine, graph())
        told.append((raised.value.engine, raised.value.nodes, engine.runs))
    assert told[0] == told[1]
    assert told[0][1][0].node == "tanh"


def test_no_further_run_is_begun_once_runs_have_taken_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(proven(Engine(), graph()).probes) > 1
    monkeypatch.setattr(prove, "PATIENCE", -1.0)
    engine, said = Engine(), list[str]()
    found = proven(engine, graph(5.0), said=said)
    assert (found.probes, engine.runs, found.inner) == (["ordinary"], 1, {})
    assert any(line.startswith("m: 1 of ") for line in said)
    with pytest.raises(NotTaken):  # the one run is judged all the same
        proven(Engine(wrong=True), graph(5.0), "2")
