"""int8 weights and uint8 activations of a general ONNX file: edgec's beside onnxruntime's own static quantisation.

    python benchmarks/static_quantisation.py MODEL.onnx SAMPLES.npz [--activations uint16] [--npu]
    python benchmarks/static_quantisation.py MODEL.onnx --lines 24 --size 48x192 [--npu]

SAMPLES holds calls with one axis more in front (docs/models.md); half of them calibrate both, on the other half
both are judged. `--lines`: that many pictures of lines of text instead, half of them upside down, for a model whose one
input is a picture (Pillow draws them). Prints, of every float output, the relative error
||quantised - float|| / ||float|| and how often the largest value along the last axis stays where it was, for each of
the two; both run in ONNX Runtime as plain QDQ. `--npu`: the model compiled `as qnn` too, with the same samples, on the
HTP emulator.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.driver import CompileOptions, compile_plan, load_plan
from edgec.compiler.ir.samples import Feeds, Samples
from edgec.compiler.oracle.oracle import open_session
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.runtime.plain_graph import run_parts
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


WORDS = ("harbour", "seven", "kiosk", "1984", "open", "daily", "north", "exit", "platform", "coffee", "fragile", "up")


def text_lines(count: int, size: tuple[int, int]) -> np.ndarray:
    """Pictures [count,1,3,H,W] of words, from -1 to 1 as OCR reads them; every other one upside down."""
    from PIL import Image, ImageDraw, ImageFont

    rng, (high, wide) = np.random.default_rng(0), size
    made = np.empty((count, 1, 3, high, wide), np.float32)
    for at in range(count):
        ink, paper = sorted(rng.integers(0, 256, (2, 3)), key=lambda colour: int(colour.sum()))
        picture = Image.new("RGB", (wide, high), tuple(map(int, paper // 2 + 128)))
        words = " ".join(rng.choice(WORDS, 3))
        font = ImageFont.load_default(int(rng.integers(high // 2, 3 * high // 4)))
        ImageDraw.Draw(picture).text((4, high // 8), words, fill=tuple(map(int, ink // 2)), font=font)
        turned = picture.rotate(180) if at % 2 else picture
        noisy = np.asarray(turned, np.float32) + rng.normal(0, 6, (high, wide, 3))
        made[at, 0] = (noisy / 127.5 - 1).transpose(2, 0, 1)
    return made


def on_the_npu(model: Path, first: Path, calls: list[Feeds], activations: str, folder: Path) -> list[np.ndarray]:
    """The outputs of all calls of the model compiled with `first` as its samples, on the HTP emulator."""
    shapes = ", ".join(f"{json.dumps(name)}: {list(array.shape)}" for name, array in calls[0].items())
    text = f"""device snapdragon_8_gen_3
model m {{ source = onnx({json.dumps(str(model.resolve()))})  shapes = {{ {shapes} }}  sample = "{first}" }}
pipeline p {{ quantize (weights = int8, block = channel, activations = {activations}) }}
deploy m on npu through p as qnn
"""
    (folder / "plan.edge").write_text(text, encoding="utf-8")
    compile_plan(
        load_plan(folder / "plan.edge"), folder / "out", CompileOptions(progress=lambda text: print(text, flush=True))
    )
    manifest = load_manifest(folder / "out")
    print({name: (part["target"], part["details"].get("lowering")) for name, part in manifest.parts.items()})
    made = [run_parts(manifest, "m", call) for call in calls]
    return [np.stack([one[name] for one in made]) for name in made[0]]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path, nargs="?")
    parser.add_argument("--lines", type=int, default=0)
    parser.add_argument("--size", default="48x192")
    parser.add_argument("--npu", action="store_true")
    parser.add_argument("--activations", default="uint8", choices=("uint8", "uint16"))
    arguments = parser.parse_args()
    scratch = tempfile.TemporaryDirectory()
    if arguments.samples is None:
        name = onnxruntime.InferenceSession(str(arguments.model)).get_inputs()[0].name
        arguments.samples = Path(scratch.name) / "lines.npz"
        high, wide = map(int, arguments.size.split("x"))
        np.savez(arguments.samples, **{name: text_lines(arguments.lines, (high, wide))})  # type: ignore[arg-type]
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
        found = {"edgec": ours, "onnxruntime": other}
        if arguments.npu:
            found["edgec, NPU"] = on_the_npu(arguments.model, first, calls[half:], arguments.activations, Path(folder))
    scratch.cleanup()
    for name, made in found.items():
        for line in rows(name, made, floats):
            print(line)


if __name__ == "__main__":
    main()
