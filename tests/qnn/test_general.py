"""A graph that is no decoder: lowered op by op, emitted, run on the emulator, compared with the float graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.cli import main
from edgec.compiler.driver import compile_plan, load_plan
from edgec.compiler.emit.target import EmitJob
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.onnx_runtime import session
from edgec.compiler.ir.save import save_graphs
from edgec.compiler.partition.parts import partition
from edgec.compiler.plan.devices import devices
from edgec.targets.qnn import QnnTarget

from .conftest import DEVICE

NET = """
net (float[1,3,16,16] image) => (float[1,10] probabilities)
<float[16,3,3,3] kernel, float[16] bias, float[256,10] head, float[10] shift>
{
    [stem__conv] a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, kernel, bias)
    [stem__relu] b = Relu (a)
    [stem__pool] c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b)
    [neck__pool] d = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (c)
    [neck__flat] e = Flatten (d)
    [head] f = Gemm (e, head, shift)
    [softmax] probabilities = Softmax <axis = -1> (f)
}
"""


WEIGHTS = ("kernel", "bias", "head", "shift")


@pytest.fixture
def net(static) -> ir.Model:
    model = static(NET)
    rng = np.random.default_rng(3)
    for value in [value for node in model.graph for value in node.inputs if value.name in WEIGHTS]:
        shape = tuple(int(d) for d in value.shape)
        value.const_value = ir.tensor((rng.standard_normal(shape) * 0.3).astype(np.float32), name=value.name)
        model.graph.register_initializer(value)
    return model


def test_a_small_vision_net_runs_as_emitted(net, tmp_path):
    module = Module("net", {"main": net}, Level.STATIC)
    (tmp_path / "net").mkdir()
    job = EmitJob(module, partition(module, "npu").parts, tmp_path, "net", devices()[DEVICE], QnnTarget.Options())
    emission = QnnTarget().emit(job)
    assert emission.kv == {}
    files = ["net_ctx.bin", "net_ctx.graphs.zip", "net_ctx.main.onnx", "net_ctx.mnn"]
    assert sorted(path.name for path in (tmp_path / "net").iterdir()) == files
    image = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float16)
    graph = QnnTarget().open_graph(tmp_path, emission.parts["net.npu0"], "main")
    got = graph.run({"image": image})["probabilities"].astype(np.float32)
    graph.close()
    path = save_graphs({"float": net}, tmp_path, "float.data")["float"]
    expected = session(str(path)).run(None, {"image": image.astype(np.float32)})[0]
    assert np.abs(got - expected).max() < 0.005 * np.abs(expected).max()
    assert got.argmax() == expected.argmax()


@pytest.mark.slow
def test_an_input_without_axes_is_one_in_the_bundle_and_in_verify(tmp_path):
    """QNN stores it as a tensor of one element."""
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[1,8,16] x, float low) => (float[1,8,16] y) {'
    model = onnx.parser.parse_model(text + " m = Max (x, low)  y = Sigmoid (m) }")
    for node in model.graph.node:
        node.name = node.output[0]
    onnx.save(model, tmp_path / "m.onnx")
    plan = tmp_path / "p.edge"
    plan.write_text(f'device {DEVICE}\nmodel m {{ source = onnx("m.onnx") }}\ndeploy m on npu as qnn\n')
    compile_plan(load_plan(plan), tmp_path / "out")
    (part,) = load_manifest(tmp_path / "out").parts.values()
    shapes = {spec["name"]: spec["shape"] for spec in part["graphs"]["main"]["inputs"]}
    assert shapes == {"x": [1, 8, 16], "low": []}
    assert main(["verify", str(tmp_path / "out")]) == 0
