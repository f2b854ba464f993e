"""int8 weights and uint8 activations of a general ONNX file: edgec's beside onnxruntime's own static quantisation.

    python benchmarks/static_quantisation.py MODEL.onnx SAMPLES.npz [--activations uint16]

SAMPLES holds calls with one axis more in front (docs/models.md); half of them calibrate both, on the other half
both are judged. Prints, of every float output, the relative error ||quantised - float|| / ||float|| and how often the
largest value along the last axis stays where it was, for each of the two; both run in ONNX Runtime as plain QDQ.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
from edgec.compiler.ir.samples import Feeds, Samples
from edgec.compiler.oracle.oracle import open_session
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.sources.onnx.onnx_source import OnnxSource
from edgec.passes.quantize import Quantize
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static


class Reader(CalibrationDataReader):
    """Calls one by one, as onnxruntime asks for them."""

    def __init__(self, calls: list[Feeds]) -> None:
        self._left = iter(calls)

    def get_next(self) -> Feeds | None:  # pyright: ignore[reportIncompatibleMethodOverride] - as its callers want it
        """The next call, None behind the last."""
        return next(self._left, None)


def outputs(session: onnxruntime.InferenceSession, calls: list[Feeds]) -> list[np.ndarray]:
    """The outputs of all calls, call by call in the first axis."""
    made = [session.run(None, call) for call in calls]
    return [np.stack([np.asarray(one[at]) for one in made]) for at in range(len(made[0]))]


def rows(name: str, made: list[np.ndarray], floats: list[np.ndarray]) -> Iterator[str]:
    """A line for each float output."""
    for at, (a, b) in enumerate(zip(made, floats, strict=True)):
        if b.dtype.kind == "f":
            error = float(np.linalg.norm(a.astype(np.float64) - b) / (np.linalg.norm(b.astype(np.float64)) or 1.0))
            same = float((a.argmax(-1) == b.argmax(-1)).mean())
            yield f"{name:14} output {at}   relative error {error:8.4f}   same largest {same:7.2%}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--activations", default="uint8", choices=("uint8", "uint16"))
    arguments = parser.parse_args()
    module = OnnxSource().with_samples([arguments.samples]).load("m", arguments.model, 0)
    calls = list(module.samples.feeds(module.main.graph))
    half = len(calls) // 2
    floats = outputs(onnxruntime.InferenceSession(str(arguments.model)), calls[half:])
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "first.npz"
        np.savez(first, **{name: np.stack([call[name] for call in calls[:half]]) for name in calls[0]})  # type: ignore[arg-type]
        module.samples = Samples((first,), (half,), module.samples.names)
        Quantize(weights="int8", block="channel", activations=arguments.activations).run(module, Scope())
        ours = outputs(open_session(module.main), calls[half:])
        theirs = Path(folder) / "theirs.onnx"
        kinds = {"uint8": QuantType.QUInt8, "uint16": QuantType.QUInt16}
        newer = Path(folder) / "newer.onnx"  # onnxruntime's needs opset 13 for scales per channel
        onnx.save(onnx.version_converter.convert_version(onnx.load(arguments.model), 17), newer)
        quantize_static(
            newer, theirs, Reader(calls[:half]), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=kinds[arguments.activations], weight_type=QuantType.QInt8,
        )  # fmt: skip
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        other = outputs(onnxruntime.InferenceSession(str(theirs), options), calls[half:])
    for name, made in (("edgec", ours), ("onnxruntime", other)):
        for line in rows(name, made, floats):
            print(line)


if __name__ == "__main__":
    main()
