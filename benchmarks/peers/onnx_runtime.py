"""ONNX Runtime's MatMulNBits quantiser: default (round to nearest), HQQ, k-quant; read back through its own kernel."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from probe import checked, float_weights, network
from shared import job, tell, timed, write

WANTED = job()
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def main() -> None:
    import onnx
    import onnxruntime
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    weights = float_weights(Path(WANTED["model"]))
    bits, block, symmetric = WANTED["bits"], WANTED["block"], WANTED["symmetric"]
    config = {
        "rtn": lambda: nbits.DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=symmetric, bits=bits),
        "hqq": lambda: nbits.HQQWeightOnlyQuantConfig(block_size=block, bits=bits),
        "k_quant": lambda: nbits.KQuantWeightOnlyQuantConfig(),
    }[WANTED["method"]]()
    tool = nbits.MatMulNBitsQuantizer(
        network(weights), bits=bits, block_size=block, is_symmetric=symmetric, algo_config=config
    )
    _, facts = timed(tool.process)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "linears.onnx"
        onnx.save(tool.model.model, path)
        kinds = {node.op_type for node in tool.model.model.graph.node}
        if kinds != {"MatMulNBits"}:
            raise ValueError(f"not all linears were quantised: {kinds}")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        made = {}
        for i, (name, weight) in enumerate(weights.items()):
            feeds = {f"x_{j}": np.zeros((1, w.shape[1]), np.float32) for j, w in enumerate(weights.values())}
            feeds[f"x_{i}"] = np.eye(weight.shape[1], dtype=np.float32)
            made[name] = session.run([f"y_{i}"], feeds)[0].T
    write(WANTED, checked(weights, made, bits))
    tell(facts)


if __name__ == "__main__":
    main()
