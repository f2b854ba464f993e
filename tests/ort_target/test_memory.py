"""Peak memory of quantising and emitting: bounded by blocks of rows, not by the largest tensor or the model."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# Qwen3-0.6B's embedding (311 MB in bf16, 622 MB in float32) tied to its head, and two of its MLPs; weights made as they
# are read, so that what is counted is ours.
CODE = """
import sys
from pathlib import Path
import numpy as np, onnx_ir as ir
from edgec.compiler.emit.child_process import peak_rss
from edgec.compiler.plan.devices import Device
from edgec.compiler.ir.module import Module, initializer
from edgec.compiler.partition.parts import partition
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.emit.target import EmitJob
from edgec.compiler.ir.weights import Weight
from edgec.passes.quantize import Quantize
from edgec.targets.ort import OrtOptions, OrtTarget

V, H, F = 151936, 1024, 3072
BASE = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)

def weight(graph, name, n, k):
    def rows(a, b):
        at = np.arange(a, b)[:, None] * 7919 % (BASE.size - k)
        return BASE[at + np.arange(k)]
    return initializer(graph, name, Weight(name, ir.DataType.FLOAT, (n, k), rows, "made"))

graph = ir.Graph([], [], nodes=[], opset_imports={"": 24}, name="main")
ids = ir.Value(name="ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["S"]))
graph.inputs.append(ids)

def op(kind, inputs, name, **attributes):
    node = ir.node(kind, inputs, attributes, name=name)
    node.outputs[0].name, node.outputs[0].type = f"{name}.out", ir.TensorType(ir.DataType.FLOAT)
    graph.append(node)
    return node.outputs[0]

table = weight(graph, "embed.weight", V, H)
x = op("Gather", [table, ids], "embed")
for layer in range(2):
    for name, n, k in ((f"up{layer}", F, H), (f"down{layer}", H, F)):
        turned = op("Transpose", [weight(graph, name + ".weight", n, k)], name + ".transpose", perm=[1, 0])
        x = op("MatMul", [x, turned], name)
x = op("MatMul", [x, op("Transpose", [table], "head.transpose", perm=[1, 0])], "head")
x.shape = ir.Shape(["S", V])
graph.outputs.append(x)
module = Module("m", {"main": ir.Model(graph, ir_version=11)})
before = peak_rss()
Quantize(weights="int4").run(module, Scope())
parts = partition(module, "cpu").parts
OrtTarget().emit(EmitJob(module, parts, Path(sys.argv[1]), "m", Device("host", "h"), OrtOptions()))
after = peak_rss()
print(before >> 20, after >> 20, (Path(sys.argv[1]) / "m/ort.data").stat().st_size)
"""


@pytest.mark.slow
def test_peak_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CODE), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    before, peak, size = map(int, done.stdout.split())
    assert size > 90 << 20
    assert peak < 250, f"{before} MiB before, {peak} MiB at most"
