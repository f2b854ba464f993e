"""Hold an own op to its definition, in a test: the same checks for edgec's ops and for yours.

    def test_packed_linear():
        check_op(PackedLinear())

On the definition's example, check_op raises CheckFailed unless
  - the graph is legal, and the body gives the expected outputs in ONNX Runtime,
  - calibration gives them too, where torch is installed,
  - a file that holds the op gives the op back when it is loaded,
  - the cost of a call is stated, and a weight use is of kind `own` with the op's node.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..files.scratch import scratch_folder
from ..ir.legality.rules import violations
from ..ir.levels import Level
from ..ir.module import MAIN, Module
from .pass_check import CheckFailed

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from ..ir.ops.op_definition import OpDefinition, OpExample


def check_op(definition: OpDefinition, bound: float = 1e-5) -> None:
    """Raise CheckFailed at the first thing that does not hold; `bound` is relative to each output's largest value."""
    from ..oracle.oracle import run

    example = definition.example()
    if found := violations(Module("example", {MAIN: example.model}, Level.COMPRESSED)):
        raise CheckFailed(f"the example of `{definition.name}` is not legal: " + "; ".join(found))
    _compare(definition, "its body in ONNX Runtime", run(example.model, example.feeds), example, bound)
    if find_spec("torch") is not None:
        _compare(definition, "calibration", _in_torch(example), example, bound)
    node = _own_node(definition, example.model)
    _check_file(definition, example.model)
    linear = definition.as_weight_use(node)
    if linear is not None and (linear.kind, linear.node) != ("own", node):
        raise CheckFailed(f"the weight use of `{definition.name}` is not of kind `own`, or of another node")
    cost = definition.cost(node, rows=1)
    if cost.bytes < 0 or cost.operations < 0:
        raise CheckFailed(f"`{definition.name}` costs {cost}")


def _own_node(definition: OpDefinition, model: ir.Model) -> ir.Node:
    nodes = [node for node in model.graph if node.op_type == definition.name]
    if len(nodes) != 1 or len(list(model.graph)) != 1:
        raise CheckFailed(f"the example of `{definition.name}` is no graph of this op alone")
    return nodes[0]


def _in_torch(example: OpExample) -> dict[str, np.ndarray]:
    import torch

    from ..calibration.torch_graph import Constants, run

    graph = example.model.graph
    env = {value: torch.from_numpy(example.feeds[value.name or ""]) for value in graph.inputs}
    outputs = list(graph.outputs)
    made = run(graph, env, Constants(on=torch.device("cpu")), outputs)
    return {value.name or "": tensor.numpy() for value, tensor in zip(outputs, made, strict=True)}


def _check_file(definition: OpDefinition, model: ir.Model) -> None:
    from ..ir.save import save_graphs
    from ..sources.onnx.load_onnx import load_onnx

    with scratch_folder("check") as folder:
        path = save_graphs({"example": model}, folder, "example.data")["example"]
        found = {node.op_type for node in load_onnx("example", path, 0).main.graph}
    if definition.name not in found:
        raise CheckFailed(f"`{definition.name}` is not installed: a file that holds it comes back as {sorted(found)}")


def _compare(
    definition: OpDefinition, what: str, got: Mapping[str, np.ndarray], example: OpExample, bound: float
) -> None:
    from ..oracle.compare import relative_error

    for name, expected in example.expected.items():
        error = relative_error(expected, got[name])
        if not error <= bound:
            raise CheckFailed(f"`{definition.name}`: output `{name}` by {what} is {error:.2g} off what is expected")
