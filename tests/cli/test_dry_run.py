"""`edgec check` finds what the targets would refuse: every refusal of every deploy, at its line, without a weight."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgec.compiler.compile import dry_run as dry_run_module
from edgec.compiler.compile.dry_run import Findings, dried, dry_run, open_questions
from edgec.compiler.diagnostics.diagnostic import Diagnostic, PlanError
from edgec.compiler.driver import check_plan, compile_plan, load_plan
from edgec.compiler.emit.capabilities import Refusal
from edgec.compiler.emit.refusals import grouped
from edgec.compiler.files.positional_read import SourceFile
from edgec.compiler.ir.weights import WeightsUnread
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.sources.hf.safetensors_index import read_checkpoint

from .conftest import MODELS, edgec

TEXT = MODELS.parent / "text" / "calibration.txt"
DECODER = f"""device snapdragon_8_gen_3
model m {{{{ source = hf("{MODELS}/pycode-qwen3")  context = 512 }}}}
calibration {{{{ text = "{TEXT}"  samples = 4  length = 64 }}}}
pipeline p {{{{
{{lines}}
  bucket (tokens = [1, 64], context = [512])
}}}}
deploy m on npu through p as qnn
"""
GRAPH = """device snapdragon_8_gen_3
model m {{ source = onnx("m.onnx") }}
pipeline p {{
{lines}
}}
deploy m on {place} through p as {target}
"""
STRANGE = '''
from dataclasses import dataclass

from edgec.compiler.pipeline.pass_interface import Pass


@dataclass(frozen=True)
class Strange(Pass):
    """Make an op that HTP has no form for, and a form of an op that it has none for."""

    name = "strange"

    def run(self, module, scope):
        for node in module.nodes("Swish"):
            if node.name.startswith("layers.0."):
                node.op_type = "Softplus"
            else:
                node.attributes.add(__import__("onnx_ir").AttrFloat32("alpha", 2.0))
        return 6
'''


@pytest.fixture(autouse=True)
def nothing_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))


def told(folder: Path, text: str) -> list[Diagnostic]:
    """The errors that `check` finds."""
    (folder / "plan.edge").write_text(text)
    return [d for d in check_plan(folder / "plan.edge", prove=False)[1] if d.severity == "error"]


def warned(folder: Path) -> list[tuple[str, int]]:
    """The warnings that `check` finds in the same plan."""
    return places([d for d in check_plan(folder / "plan.edge", prove=False)[1] if d.severity == "warning"])


def places(found: list[Diagnostic]) -> list[tuple[str, int]]:
    return [(d.code, d.at.span.line) for d in found if d.at]


THREE = 'use "strange.py"\n' + DECODER.format(
    lines='  strange\n  quantize (weights = int4, method = gptq)\n  place (device = npu) on "embed_tokens"'
)


def test_refusals_and_a_warning_of_different_kinds(tmp_path: Path) -> None:
    (tmp_path / "strange.py").write_text(STRANGE)
    found = told(tmp_path, THREE)
    assert places(found) == [("E0636", 7), ("E0634", 11)]
    assert ("W0603", 11) in warned(tmp_path)
    assert [label.text for d in found for label in d.also] == ["deployed as qnn here"]
    assert [d.message.partition(":")[0] for d in found] == [
        "`embed_tokens`",
        "5 nodes like `layers.*.mlp.act`",
    ]


def test_a_check_reads_no_weight_and_imports_no_torch(tmp_path: Path) -> None:
    """In a process of its own: what is read of the checkpoint ends with its header."""
    (tmp_path / "strange.py").write_text(STRANGE)
    (tmp_path / "plan.edge").write_text(THREE)
    script = f"""
import sys
from edgec.compiler.files.positional_read import SourceFile
reads, read = [], SourceFile.read
SourceFile.read = lambda self, offset, size: (reads.append(offset + size), read(self, offset, size))[1]
from edgec.compiler.cli import main
assert main(["check", {str(tmp_path / "plan.edge")!r}]) == 1
assert reads, "nothing was read: the test sees nothing"
print(max(reads), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.count("error[") == 2
    header = min(tensor.offset for tensor in read_checkpoint(MODELS / "pycode-qwen3").values())
    furthest, torch = done.stdout.split()
    assert (int(furthest) <= header, torch) == (True, "False")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("  quantize (weights = int4, block = 32)", []),
        ('  quantize (weights = int4)\n  place (device = npu) on "embed_tokens"', [("E0636", 5)]),
        ("  quantize (weights = int8, activations = uint16, method = gptq)", []),
        ("  rotate\n  quantize (weights = auto, method = gptq)", []),
        ('  quantize (weights = int4, block = 32)\n  place (device = cpu) on "embed_tokens"', []),
        (
            '  quantize (weights = int4)  except "embed_tokens"\n  quantize (weights = int8)  on "*_tokens"\n'
            '  place (device = npu) on "embed*"',
            [("E0636", 6)],
        ),
    ],
)
def test_a_decoder_on_the_npu(tmp_path: Path, lines: str, expected: list[tuple[str, int]]) -> None:
    assert places(told(tmp_path, DECODER.format(lines=lines))) == expected


def test_too_little_text(tmp_path: Path) -> None:
    text = DECODER.format(lines='  quantize (weights = int4, method = gptq)  on "layers.*"')
    (found,) = told(tmp_path, text.replace("samples = 4", "samples = 100000"))
    assert (found.code, found.at and found.at.span.line) == ("E0452", 3)


def test_a_text_to_judge_on_that_is_too_short(tmp_path: Path) -> None:
    """Both texts are told of at once, each at its block; the evaluation's too where nothing is calibrated."""
    (tmp_path / "short.txt").write_text("import os\n")
    judged = f'evaluation {{ text = "{tmp_path}/short.txt"  windows = 2 }}\ndeploy'
    text = DECODER.format(lines='  quantize (weights = int4, method = gptq)  on "layers.*"').replace("deploy", judged)
    found = told(tmp_path, text.replace("samples = 4", "samples = 100000"))
    assert [one.code for one in found] == ["E0452", "E0952"]
    (alone,) = told(tmp_path, DECODER.format(lines="  quantize (weights = int8)").replace("deploy", judged))
    assert alone.code == "E0952"
    assert "evaluation" in text.splitlines()[places([alone])[0][1] - 1]


def test_a_text_to_judge_on_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    judged = f'evaluation {{ text = "{tmp_path}/latin.txt"  windows = 2 }}\ndeploy'
    (found,) = told(tmp_path, DECODER.format(lines="  quantize (weights = int8)").replace("deploy", judged))
    assert (found.code, found.at is not None) == ("E0951", True)


def write_graph(path: Path, body: str, shape: str = "1,64", result: str = "1,128", **weights: np.ndarray) -> None:
    """An ONNX file of the nodes `body`, from `x` to `y`."""
    text = f'<ir_version: 10, opset_import: ["": 21]> g (float[{shape}] x) => (float[{result}] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, path)


def matrix(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


INT8 = "  quantize (weights = int8, block = channel)"
OWN_MNN = "mnn { lowering = edgec }"


@pytest.mark.parametrize(
    ("target", "lines", "graph", "expected"),
    [
        ("qnn", INT8, {"body": "y = MatMul (x, w)", "w": matrix(64, 128)}, [("E0640", 6)]),
        (
            "qnn { lowering = edgec }", INT8,
            {"body": "y = Conv (x, w)", "w": matrix(8, 4, 3, 3), "shape": "1,4,8,8", "result": "1,8,6,6"},
            [("E0634", 4)],
        ),
        (
            "qnn", "", {"body": "y = MatMul (x, w)", "w": matrix(64, 128), "shape": "N,64", "result": "N,128"},
            [("E0631", 6)],
        ),
        (OWN_MNN, "", {"body": "y = CumSum (x, a)", "a": np.array(1), "result": "1,64"}, [("E0710", 6)]),
        (
            OWN_MNN, "", {"body": "z = CumSum (x, a) t = Relu (z) y = Hardmax (t)", "a": np.array(1), "result": "1,64"},
            [("E0710", 6), ("E0710", 6)],
        ),
        ("mnn", INT8, {"body": "y = MatMul (x, w)", "w": matrix(64, 128)}, []),
    ],
)  # fmt: skip
def test_an_onnx_graph(tmp_path: Path, target: str, lines: str, graph: dict, expected: list) -> None:
    write_graph(tmp_path / "m.onnx", **graph)
    place = "npu" if target.startswith("qnn") else "cpu"
    assert places(told(tmp_path, GRAPH.format(lines=lines, place=place, target=target))) == expected


def test_activations_of_a_graph(tmp_path: Path) -> None:
    write_graph(tmp_path / "m.onnx", "y = MatMul (x, w)", w=matrix(64, 128))
    text = GRAPH.format(lines="  quantize (weights = int8, activations = uint16)", place="npu", target="qnn")
    assert ("E0454", 4) in places(told(tmp_path, text))  # of samples, not of text
    assert "`activations` needs inputs of `m`" in str(told(tmp_path, text))


def test_evaluation_without_a_tokenizer(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "pycode-qwen2", tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    text = f"""device host
model m {{ source = hf("model")  context = 64 }}
evaluation {{ text = "{TEXT}"  windows = 1 }}
deploy m on cpu as ort
"""
    (found,) = told(tmp_path, text)
    assert (found.code, found.at and found.at.span.line) == ("E0309", 3)


def test_a_compile_starts_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plan.edge").write_text(DECODER.format(lines="  quantize (weights = int4, method = gptq)"))
    monkeypatch.setattr("edgec.passes.quantize.Quantize._weights", None, raising=True)
    monkeypatch.setattr(dry_run_module, "dry_run", lambda *_: Findings([Diagnostic("E0636", "refused")]))
    with pytest.raises(PlanError, match="E0636"):
        compile_plan(load_plan(tmp_path / "plan.edge"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_held_is_remembered_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(MODELS / "pycode-qwen3", tmp_path / "model")
    lines = '  quantize (weights = int4)  on "layers.*"'
    text = DECODER.format(lines=lines).replace(f"{MODELS}/pycode-qwen3", "model")
    said: list[str] = []

    def check(text: str, fast: bool = False) -> list[str]:
        said.clear()
        (tmp_path / "plan.edge").write_text(text)
        check_plan(tmp_path / "plan.edge", fast=fast, progress=said.append)
        return list(said)

    assert check(text, fast=True) == []
    assert check(text) == ["looking at what `as qnn` takes of `m`"]
    assert check(text) == []
    assert len(check(text + "# more\n")) == 1
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rope_theta": 5000.0}))
    assert len(check(text)) == 1
    assert check(text) == []
    monkeypatch.setattr("edgec.compiler.compile.remembered._version", lambda _name: "another")
    assert len(check(text)) == 1


@pytest.mark.parametrize(
    ("target", "place", "questions"), [("ort", "cpu", []), ("mnn", "cpu", ["m"]), ("qnn", "npu", ["m"])]
)
def test_only_deploys_with_a_question_are_looked_at(
    tmp_path: Path, target: str, place: str, questions: list[str]
) -> None:
    text = DECODER.format(lines='  quantize (weights = int4)  on "layers.*"')
    if place == "cpu":
        text = text.replace("bucket (tokens = [1, 64], context = [512])", "")
    text = text.replace("on npu through p as qnn", f"on {place} through p as {target}")
    (tmp_path / "plan.edge").write_text(text)
    assert [deploy.model for deploy in open_questions(load_plan(tmp_path / "plan.edge"))] == questions


def test_a_pass_that_reads_weights_ends_the_run_and_refuses_nothing(tmp_path: Path) -> None:
    reading = STRANGE.replace(
        'for node in module.nodes("Swish"):',
        'next(module.nodes("Gather")).inputs[0].const_value.numpy()\n        for node in ():',
    )
    (tmp_path / "strange.py").write_text(reading)
    assert told(tmp_path, THREE) == []


def test_a_dry_module_has_no_numbers() -> None:
    module = dried(load_hf("m", MODELS / "pycode-qwen2", 64))
    weight = module.main.graph.initializers["embed_tokens.weight"].const_value
    assert weight is not None
    with pytest.raises(WeightsUnread):
        weight.numpy()


def test_all_deploys_are_told_in_one_run(tmp_path: Path) -> None:
    write_graph(tmp_path / "m.onnx", "y = CumSum (x, a)", a=np.array(1), result="1,64")
    text = (
        GRAPH.format(lines="", place="cpu", target=OWN_MNN)
        + """
model other { source = onnx("m.onnx") }
deploy other on npu as qnn { lowering = edgec }
"""
    )
    assert [d.code for d in told(tmp_path, text)] == ["E0710", "E0621"]
    done = edgec("check", tmp_path / "plan.edge")
    assert done.returncode == 1
    assert done.stderr.count("error[") == 2


def test_names_of_one_kind_are_one_name() -> None:
    def said(*nodes: str) -> tuple[str, str | None]:
        (found,) = grouped(Refusal("E0634", "{}: no", node, "on {on}") for node in nodes)
        return found.message, found.help

    assert said("head") == ("`head`: no", 'on "head"')
    assert said("layers.0.a", "layers.1.a") == ("2 nodes like `layers.*.a`: no", 'on "layers.*.a"')
    assert said("layers.0.a", "layers.1.a", "b") == (
        "3 nodes like `layers.*.a` and `b`: no",
        'on ["layers.*.a", "b"]',
    )
    assert said("a", "b", "c", "d", "e")[0] == "5 nodes like `a`, `b`, `c`, `d` and `e`: no"
    assert said(*"abcdefghijklmnopqrstuvwxyz")[0].endswith(", `s`, `t` and 6 more kinds: no")
    assert len(grouped([Refusal("E0634", "{}: no", "a"), Refusal("E0634", "{}: never", "a")])) == 2


def test_reading_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first tests lean on: a module that is not dry reads its checkpoint."""
    seen: list[int] = []
    read = SourceFile.read
    monkeypatch.setattr(SourceFile, "read", lambda self, *a: (seen.append(1), read(self, *a))[1])
    module = load_hf("m", MODELS / "pycode-qwen2", 64)
    seen.clear()
    module.main.graph.initializers["norm.weight"].const_value.numpy()
    assert seen
    assert dry_run is not None
