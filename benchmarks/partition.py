"""Seconds of cutting a decoder whose every linear is on the CPU beside an NPU, by its number of layers.

The devices alternate at every linear, eight parts a layer. Models are of Qwen3's shape with weights that are described
and never read: one of hidden size 64 by layers, and one of Qwen3-4B's dimensions (36 layers). `ratio` is to 8 layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import onnx_ir as ir
from common import QWEN3_CONFIG, arguments, report, scratch, timed
from edgec.compiler.ir.annotations import DEVICE
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.weights import Weight
from edgec.compiler.partition.parts import partition
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.sources.hf.decoder_graph import build
from edgec.compiler.sources.hf.read_decoder_arch import read_arch
from edgec.passes.bucket import Bucket

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
QWEN3_4B = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


def decoder(folder: Path, dimensions: dict[str, int], layers: int) -> Module:
    """The semantic graph; whoever reads one of its weights gets an error."""
    (folder / "config.json").write_text(json.dumps({**QWEN3_CONFIG, **dimensions, "num_hidden_layers": layers}))
    arch = read_arch(folder)

    def unread(_start: int, _stop: int) -> NoReturn:
        raise AssertionError("partitioning has read a weight")

    weights = {
        name: Weight(name, ir.DataType.FLOAT, shape, unread, "benchmark") for name, shape in arch.tensors().items()
    }
    return Module("m", {"main": build(arch, weights, 1024)}, Level.SEMANTIC, arch, None, 1024)


def place(module: Module) -> None:
    """Every linear of a layer on the CPU, all else on the NPU."""
    for node in module.nodes():
        DEVICE.set(node, "cpu" if (node.name or "").endswith("_proj") else "npu")
    module.level = Level.PLACED


def measure(name: str, module: Module, repeats: int) -> dict[str, Any]:
    """The least seconds of cutting `module`, with its size."""
    place(module)
    runs = [timed(lambda: partition(module, "npu")) for _ in range(repeats)]
    return {
        "model": name,
        "layers": module.arch.layers if module.arch else 0,
        "graphs": len(module.graphs),
        "nodes": sum(1 for _ in module.nodes()),
        "parts": len(runs[0][1].parts),
        "transfers": len(runs[0][1].transfers),
        "seconds": min(seconds for seconds, _cut in runs),
    }


def main() -> None:
    """Print the table."""
    args = arguments(__doc__, repeats=3)
    with scratch() as folder:
        rows: list[dict[str, Any]] = [
            measure("hidden 64", decoder(folder, SMALL, layers), args.repeats) for layers in (2, 4, 8, 16, 28)
        ]
        rows.append(measure("Qwen3-4B", decoder(folder, QWEN3_4B, 36), args.repeats))
        buckets = decoder(folder, QWEN3_4B, 36)
        Bucket(tokens=(1, 4, 128), context=(1024,)).run(buckets, Scope())
        rows.append(measure("Qwen3-4B", buckets, args.repeats))
    eight = next(row["seconds"] for row in rows if row["layers"] == 8)
    for row in rows:
        row["ratio"] = row["seconds"] / eight
    report("partition of alternating devices", rows, args)


if __name__ == "__main__":
    main()
