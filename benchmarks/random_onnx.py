"""Random ONNX graphs through edgec, each beside ONNX Runtime on the file itself: right, wrong, refused or failed.

    python benchmarks/random_onnx.py [--count 100] [--seed 0] [--targets ort mnn qnn] [--opsets 7-21] [--ops conv,pool]

Graphs of one op or a body with odd attributes, shapes, types, names, opsets (`random_graphs/`): inputs or constants as
operands, open sizes, outputs without a shape, weights in a file beside it. Each is compiled, run on its own inputs and
verified. A line for each that is not right, which `--seed S --count 1` makes again, and a table in the end.

wrong    an output is missing, or has another type, shape or numbers; or `verify` finds something
refused  a diagnostic about the plan or the model (exit 1)
failed   any other error: the engine's, or an exception
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import edgec
import numpy as np
import onnx
import onnxruntime
from edgec.compiler.diagnostics.diagnostic import EdgecError, PlanError
from onnx import helper, numpy_helper
from random_graphs import RECIPES
from random_graphs.graph import Graph

TARGETS = {"ort": 1e-3, "mnn": 1e-2, "qnn": 2e-2}  # and how far an output may be off, of its largest value
VERDICTS = ("right", "wrong", "refused", "failed")
SECONDS = 120  # of a graph
_NAMES = ["a b", "x/y:0", "ü", "1st", "a.b.c", "out-put", "a,b", "::", "input", "output", "m", "x#1", "con", "V:0"]
_STATIC = ("made", "image", "signal")  # recipes whose outputs have sizes that hang on the numbers given


@dataclass(frozen=True)
class Case:
    """A graph, what it is called with, and what ONNX Runtime makes of it."""

    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    label: str
    open: bool  # whether sizes are
    beside: bool  # whether its weights lie in a file beside it


class Overdue(BaseException):
    """A graph that took longer than `SECONDS`."""


def build(seed: int, opsets: tuple[int, int], ops: Sequence[str] = ()) -> Case | None:
    """The graph of a seed; None where ONNX Runtime has no form for it, or it gives no tensors."""
    r = np.random.default_rng(seed)
    g = Graph(r, int(r.integers(max(opsets[0], 11), opsets[1] + 1)) if opsets[1] >= 11 else opsets[1])
    recipes = [one for one in RECIPES if not ops or one.__name__.strip("_") in ops]
    recipe = g.pick(*recipes)
    recipe(g)
    label = recipe.__name__.strip("_")
    if g.chance(0.3):  # and another one beside it
        second = g.pick(*RECIPES)
        second(g)
        label += f"+{second.__name__.strip('_')}"
    if not opsets[0] <= g.opset <= opsets[1]:
        return None
    open_ = g.chance(0.25)
    model = _model(g, open_)
    made = _run(model, g.inputs)
    if made is None:
        return None
    for value in model.graph.output:
        array = made[value.name]
        shape = [f"{value.name}_{axis}" for axis in range(array.ndim)] if open_ or label in _STATIC else array.shape
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, None if g.chance(0.2) else shape))
    called = {**dict.fromkeys(g.inputs), **made}
    names = _names(g, list(called)) if g.chance(0.12) else {}
    _rename(model, names)
    feeds = {names.get(name, name): array for name, array in g.inputs.items()}
    expected = _run(model, feeds)
    if expected is None:
        return None
    label += f" opset {g.opset}" + (", open sizes" if open_ else "")
    return Case(model, feeds, expected, label, open_, g.chance(0.2))


def _model(g: Graph, open_: bool) -> onnx.ModelProto:
    """As a file, with inputs of sizes by name where they are open; outputs have no type yet."""

    def info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
        sizes = [f"{name}_{axis}" if open_ and g.chance() else size for axis, size in enumerate(array.shape)]
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), sizes)

    inputs = [info(name, array) for name, array in g.inputs.items()]
    constants = [numpy_helper.from_array(array, name) for name, array in g.consts.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(g.outputs)]
    imports = [helper.make_opsetid("", g.opset)]
    if any(node.domain for node in g.nodes):
        imports.append(helper.make_opsetid("com.microsoft", 1))
    model = helper.make_model(helper.make_graph(g.nodes, "g", inputs, outputs, constants), opset_imports=imports)
    model.ir_version = 8 if g.opset < 20 else 10
    return model


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """What ONNX Runtime makes; None where it refuses the file, or makes something else than tensors."""
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        made = session.run(None, feeds)
    except Exception:  # it raises types of its own for each kind of refusal
        return None
    if not all(isinstance(one, np.ndarray) for one in made):
        return None
    return dict(zip([output.name for output in session.get_outputs()], made, strict=True))


def _names(g: Graph, known: Iterable[str]) -> dict[str, str]:
    """Odd names for some of these; none where two would be the same."""
    found = {name: f"{g.pick(*_NAMES)}{g.pick('', g.n)}" for name in known if g.chance()}
    return found if len({*found.values()}) == len(found) else {}


def _rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    for node in model.graph.node:
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = names.get(value.name, value.name)


def write(case: Case, folder: Path, target: str) -> Path:
    """The plan below `folder`, beside its ONNX file; the NPU is given every size."""
    if case.beside:
        onnx.save(case.model, folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    else:
        onnx.save(case.model, folder / "m.onnx")
    sizes = {name: list(array.shape) for name, array in case.feeds.items() if array.ndim}
    listed = ", ".join(f"{json.dumps(name, ensure_ascii=False)}: {shape}" for name, shape in sizes.items())
    shapes = f"  shapes = {{ {listed} }}" if target == "qnn" and case.open and sizes else ""
    device, place = ("snapdragon_8_gen_3", "npu") if target == "qnn" else ("host", "cpu")
    model = f'model m {{ source = onnx("m.onnx"){shapes} }}'
    path = folder / "p.edge"
    path.write_text(f"device {device}\n{model}\ndeploy m on {place} as {target}\n", encoding="utf-8")
    return path


def judge(case: Case, folder: Path, target: str) -> tuple[str, str]:
    """The verdict and, unless it is right, what is the matter."""
    try:
        edgec.compile(str(write(case, folder, target)), str(folder / "out"))
        with edgec.open(folder / "out") as bundle:
            problems = [*_differences(bundle.run(case.feeds), case.expected, TARGETS[target])]
            problems += bundle.verify().problems
    except PlanError as refused:
        return "refused", _first(refused)
    except EdgecError as failed:
        return "failed", _first(failed)
    except Exception as failed:  # a fault of edgec
        return "failed", f"{type(failed).__name__}: {failed}"
    return ("wrong", "; ".join(problems)) if problems else ("right", "")


def _first(error: EdgecError) -> str:
    return "; ".join(f"{one.code} {one.message}" for one in error.diagnostics)


def _differences(made: dict[str, np.ndarray], expected: dict[str, np.ndarray], bound: float) -> Iterator[str]:
    for name, right in expected.items():
        if name not in made:
            yield f"`{name}` is missing"
        elif (made[name].dtype, made[name].shape) != (right.dtype, right.shape):
            yield f"`{name}` is {made[name].dtype} {made[name].shape} for {right.dtype} {right.shape}"
        elif not (error := off(made[name], right)) <= bound:  # no number is far too
            yield f"`{name}` is off by {error:.3g}"


def off(made: np.ndarray, right: np.ndarray) -> float:
    """The largest difference, of the largest value; infinite where what is not finite is another."""
    if right.dtype.kind == "O":
        return 0.0 if np.array_equal(made, right) else np.inf
    a, b = made.astype(np.float64), right.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / max(float(np.abs(b[finite]).max(initial=0.0)), 1e-6)


def campaign(
    seeds: Iterable[int], targets: Sequence[str], opsets: tuple[int, int] = (7, 21), ops: Sequence[str] = ()
) -> tuple[dict[str, Counter[str]], set[str]]:
    """How many graphs had each verdict, by target, and the kinds of ops in them; a line for each that is not right."""
    counts: dict[str, Counter[str]] = {target: Counter() for target in targets}
    kinds: set[str] = set()
    for seed in seeds:
        case = build(seed, opsets, ops)
        if case is None:
            continue
        kinds |= {node.op_type for node in case.model.graph.node}
        for target in targets:
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                verdict, why = _in_time(case, Path(folder), target)
            counts[target][verdict] += 1
            if verdict != "right":
                print(f"{seed} as {target}: {verdict}: {case.label}: {why[:400]}", flush=True)
    return counts, kinds


def _in_time(case: Case, folder: Path, target: str) -> tuple[str, str]:
    def late(_signal: int, _frame: FrameType | None) -> None:
        raise Overdue

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        return judge(case, folder, target)
    except Overdue:
        return "failed", f"it did not end in {SECONDS} s"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="seeds; those that ONNX Runtime refuses are left out")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=["ort", "mnn"])
    parser.add_argument("--opsets", type=_range, default=(7, 21), metavar="A-B")
    parser.add_argument("--ops", default="", help="only these recipes, by name")
    given = parser.parse_args()
    onnxruntime.set_default_logger_severity(4)
    seeds = range(given.seed, given.seed + given.count)
    counts, kinds = campaign(seeds, given.targets, given.opsets, [one for one in given.ops.split(",") if one])
    print(f"\n| {given.count} seeds from {given.seed}, {len(kinds)} kinds of ops | {' | '.join(VERDICTS)} |")
    print("| --- |" + " --- |" * len(VERDICTS))
    for target, found in counts.items():
        print(f"| as {target} | {' | '.join(str(found[verdict]) for verdict in VERDICTS)} |")


if __name__ == "__main__":
    main()
