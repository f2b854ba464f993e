"""MNN's converter: its own weight quantisation, with and without HQQ; read back through its own kernels."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from probe import checked, float_weights, network
from shared import job, tell, timed, write

WANTED = job()


def main() -> None:
    import _tools  # the converter itself; the console script around it installs packages
    import onnx
    from MNN import expr, nn

    weights = float_weights(Path(WANTED["model"]))
    with tempfile.TemporaryDirectory() as folder:
        source, made = str(Path(folder) / "linears.onnx"), str(Path(folder) / "linears.mnn")
        onnx.save(network(weights), source)
        words = ["x", "-f", "ONNX", "--modelFile", source, "--MNNModel", made, "--bizCode", "x"]
        words += ["--weightQuantBits", str(WANTED["bits"]), "--weightQuantBlock", str(WANTED["block"])]
        words += [f"--weightQuantAsymmetric={int(not WANTED['symmetric'])}"]  # read as a number: `true` is 0
        words += ["--hqq"] if WANTED["method"] == "hqq" else []
        _, facts = timed(lambda: _tools.mnnconvert(words))
        names = [f"x_{i}" for i in range(len(weights))], [f"y_{i}" for i in range(len(weights))]
        network_ = nn.load_module_from_file(made, *names)
        got = {}
        for i, (name, weight) in enumerate(weights.items()):
            feeds = []
            for j, w in enumerate(weights.values()):
                eye = np.eye(weight.shape[1], dtype=np.float32) if i == j else np.zeros((1, w.shape[1]), np.float32)
                feeds.append(expr.const(eye.ravel().tolist(), list(eye.shape), expr.NCHW))
            got[name] = np.array(network_.onForward(feeds)[i].read()).reshape(weight.shape[::-1]).T.copy()
    write(WANTED, checked(weights, got, WANTED["bits"]))
    tell({**facts, "bytes": 0})


if __name__ == "__main__":
    main()
