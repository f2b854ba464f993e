"""How long an ONNX file takes to its canonical form: chains of shapes as exporters write them, If, batch norms.

    python benchmarks/canonical_form.py [FILE.onnx ...] [--nodes 1400]

Without files a graph of `--nodes` nodes is made: blocks of convolution, batch norm, activation and a Reshape whose
shape is computed from the input's. Prints nodes before and behind, seconds of CPU and of the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from edgec.compiler.sources.onnx.load_onnx import load_onnx
from onnx import TensorProto, helper, numpy_helper

BLOCK = 15  # nodes of a block


def graph(nodes: int) -> onnx.ModelProto:
    """Blocks of BLOCK nodes over [1,8,16,16], of static shapes that only inference tells."""
    rng = np.random.default_rng(0)
    made, constants, x = [], {}, "x"
    for name, values in {"zero": [0], "one": [1], "minus": [-1], "two": [2], "three": [3]}.items():
        constants[name] = np.array(values, np.int64)
    for block in range(nodes // BLOCK):
        p = f"b{block}."
        constants[f"{p}w"] = rng.normal(size=(8, 8, 3, 3)).astype(np.float32) * 0.1
        for name in ("scale", "bias", "mean"):
            constants[p + name] = rng.normal(size=8).astype(np.float32)
        constants[f"{p}var"] = np.abs(rng.normal(size=8)).astype(np.float32) + 0.5
        numbers = [f"{p}{name}" for name in ("scale", "bias", "mean", "var")]
        made.append(helper.make_node("Conv", [x, f"{p}w"], [f"{p}c"], auto_pad="SAME_UPPER", kernel_shape=[3, 3]))
        made.append(helper.make_node("BatchNormalization", [f"{p}c", *numbers], [f"{p}n"]))
        made.append(helper.make_node("Relu", [f"{p}n"], [f"{p}r"]))
        made.append(helper.make_node("Identity", [f"{p}r"], [f"{p}i"]))
        for axis, at in enumerate(("zero", "one", "two", "three")):
            made.append(helper.make_node("Shape", [f"{p}i"], [f"{p}s{axis}"]))
            made.append(helper.make_node("Gather", [f"{p}s{axis}", at], [f"{p}d{axis}"]))
        made.append(helper.make_node("Concat", [f"{p}d{axis}" for axis in range(4)], [f"{p}shape"], axis=0))
        made.append(helper.make_node("Reshape", [f"{p}i", f"{p}shape"], [f"{p}y"]))
        made.append(helper.make_node("Dropout", [f"{p}y"], [f"{p}o"]))
        x = f"{p}o"
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        made, "blocks", [value("x", TensorProto.FLOAT, [1, 8, 16, 16])], [value(x, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measure(file: Path) -> None:
    """Print one row."""
    before = len(onnx.load(file, load_external_data=False).graph.node)
    clock, cpu = time.perf_counter(), time.process_time()
    module = load_onnx("m", file, 0)
    seconds, own = time.perf_counter() - clock, time.process_time() - cpu
    print(f"{file.name:30} {before:6} nodes -> {len(module.main.graph):6}   {own:6.2f} s CPU   {seconds:6.2f} s")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--nodes", type=int, default=1400)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "blocks.onnx"
        if not arguments.files:
            onnx.save(graph(arguments.nodes), made)
        for file in arguments.files or [made]:
            measure(file)


if __name__ == "__main__":
    main()
