"""A graph that the QNN provider lowers by itself, proven on the emulator; every way in which it fails is `NotTaken`.

graph --as_it_stands--> HTP compiler --rejected nodes--> NotTaken
                                     --emulator--> compared with ONNX Runtime, float16's rounding allowed for
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ...compiler.diagnostics.diagnostic import EngineError, fail
from ...compiler.emit.child_process import Child
from ...compiler.files.code_digest import code_digest
from ...compiler.files.scratch import scratch_folder
from ...compiler.ir.activation_encodings import quantised
from ...compiler.ir.bodies import bodies
from ...compiler.ir.graph_queries import constant_nodes
from ...compiler.ir.module import Module
from ...compiler.ir.save import save_graphs
from ...compiler.oracle.compare import FROM_THE_END, HALVES, WIDE
from ...compiler.proof.errors import FLOAT16, INTEGERS
from ...compiler.proof.kept_proof import proven_once
from ...compiler.proof.not_taken import NotTaken, Wrong
from ...compiler.proof.prove import Proof, Proven
from ...compiler.proof.whole_feeds import whole_feeds
from .carried_graphs import DATA
from .htp.chip import Chip, tool_versions
from .htp.compile import Rejected, compile_twin
from .htp.emulator import QnnEmulator
from .lower.engine import as_it_stands
from .vanishing import vanishing

if TYPE_CHECKING:
    from pathlib import Path

ENGINE = "the QNN provider's own lowering"
_EDGES = (FROM_THE_END, WIDE, HALVES)  # large floats leave float16's range, small ones its digits


def prove_engine(module: Module, model: ir.Model, chip: Chip, slower: float, say: Callable[[str], None]) -> Proven:
    """What proves the provider's form of `model`, a part of `module`, on `chip`; NotTaken where it is not right."""
    name = module.name
    if branching := [node for node in model.graph if bodies(node)]:
        why = "has a body of its own, and HTP has no control flow"
        raise NotTaken(ENGINE, name, [Wrong(node.name or "", node.op_type, why) for node in branching])
    if small := vanishing(model):
        raise NotTaken(ENGINE, name, small)
    called = whole_feeds(module, model)
    arithmetic = INTEGERS if quantised(model.graph) else FLOAT16
    proof = Proof(model, name, ENGINE, arithmetic, module.samples, called, _EDGES, slower, say)
    say(f"{name}: {ENGINE} for v{chip.arch}; proving it on the emulator, {proof.outlook()}")
    engine = (chip, tool_versions(), code_digest("edgec.targets.qnn"))
    return proven_once(proof, engine, lambda: proof.judge(lambda graph: Opened(graph, name, chip)))


class Opened:
    """A graph compiled into a folder of its own and open on an emulator of its own; both go with it."""

    def __init__(self, model: ir.Model, name: str, chip: Chip) -> None:
        lowered = as_it_stands(model, "graph")
        self._inputs = {value.name or "": value.dtype for value in lowered.model.graph.inputs}
        self._emulator = QnnEmulator(chip)
        self._emulator.process.join()
        try:
            with scratch_folder("qnn") as folder:
                save_graphs({"graph": lowered.model}, folder, DATA)
                self._session = self._emulator.open(
                    lambda child: _compiled(folder, chip, child, model, name), f"`{name}`"
                )
        except BaseException:
            self._emulator.process.leave()
            raise

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        own = {name: feeds[name].astype(kind.numpy()) for name, kind in self._inputs.items() if kind is not None}
        return self._session.run(own)

    def close(self) -> None:
        """End the process."""
        self._session.close()
        self._emulator.process.leave()


def _compiled(folder: Path, chip: Chip, child: Child, model: ir.Model, name: str) -> Path:
    try:
        compile_twin(folder, "graph", chip, folder / "made", child)
    except Rejected as refused:
        raise NotTaken(ENGINE, name, _of_graph(model, refused.nodes)) from refused
    return folder / "made" / "graph.onnx"


def _of_graph(model: ir.Model, rejected: Sequence) -> list[Wrong]:
    """The nodes of `model` that were rejected; EngineError where they are known by other names.

    What only reads constants goes wherever its readers are: in its place those are named.
    """
    own = {node.name: node for node in model.graph}
    constant = constant_nodes(model.graph)
    found: dict[str, Wrong] = {}
    for one in rejected:
        waiting = [own[one["name"]]] if one["name"] in own else []
        while waiting:
            node = waiting.pop()
            if node in constant and (readers := [use.node for value in node.outputs for use in value.uses()]):
                waiting += readers
                continue
            what = "is rejected" if node.name == one["name"] else f"is rejected with its `{one['name']}`"
            reason = f": {one['reason']}" if one["reason"] else ""
            found.setdefault(node.name or "", Wrong(node.name or "", node.op_type, what + reason))
    if not found:
        fail("E0612", f"the HTP compiler rejects nodes that `{model.graph.name}` does not have", kind=EngineError)
    return list(found.values())
