"""Emit a module as `ort` into a folder of its own, as the driver does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.emit.target import Emission, EmitJob
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import Module, initializer
from edgec.compiler.ir.weights import from_array
from edgec.compiler.partition.parts import partition
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.plan.devices import Device
from edgec.passes.quantize import Quantize
from edgec.targets.ort import OrtOptions, OrtTarget


@pytest.fixture
def emit(tmp_path: Path) -> Callable[..., Emission]:
    def make(module: Module, format: str = "matmulnbits", folder: Path | None = None, **options: str) -> Emission:
        job = EmitJob(
            module=module,
            parts=partition(module, "cpu").parts,
            directory=folder or tmp_path,
            folder=module.name,
            device=Device("host", "this machine"),
            options=OrtOptions(format=format, **options),
        )
        return OrtTarget().emit(job)

    return make


@pytest.fixture
def one_weight() -> Callable[..., Module]:
    """A module of one op over one quantised weight [n, k]: `linear`, `gemm` (with bias), `embedding` or `tied`."""

    def make(kind: str, n: int, k: int, seed: int = 0, **quantize: object) -> Module:
        rng = np.random.default_rng([seed, n, k])
        module = Module("m", {"main": _model(kind, n, k, rng)})
        Quantize(**quantize).run(module, Scope())  # type: ignore[arg-type]
        module.level = Level.COMPRESSED
        return module

    return make


def _model(kind: str, n: int, k: int, rng: np.random.Generator) -> ir.Model:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 24}, name="main")
    weight = initializer(graph, "w", from_array("w", rng.standard_normal((n, k)).astype(np.float32)))
    floats, ints = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.INT64)
    looked_up = kind in ("embedding", "tied")
    x = ir.Value(name="x", type=ints if looked_up else floats, shape=ir.Shape(["S"] if looked_up else ["S", k]))
    graph.inputs.append(x)
    if looked_up:
        graph.append(ir.node("Gather", [weight, x], name="embed"))
    if kind == "gemm":
        bias = initializer(graph, "b", from_array("b", rng.standard_normal(n).astype(np.float32)))
        graph.append(ir.node("Gemm", [x, weight, bias], {"transB": 1}, name="linear"))
    elif kind != "embedding":
        before = graph[-1].outputs[0] if looked_up else x
        turned = ir.node("Transpose", [weight], {"perm": [1, 0]}, name="linear.transpose")
        graph.extend([turned, ir.node("MatMul", [before, turned.outputs[0]], name="linear")])
    for node in graph:
        node.outputs[0].name, node.outputs[0].type = f"{node.name}.out", floats
    last = graph[-1].outputs[0]
    last.shape = ir.Shape(["S", k if kind == "embedding" else n])
    graph.outputs.append(last)
    return ir.Model(graph, ir_version=11)
