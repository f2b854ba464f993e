"""The checker: a plan comes out typed and resolved, or with every mistake in one run; nothing heavy is imported."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError, render, to_json
from edgec.compiler.diagnostics.explain import codes
from edgec.dsl import check_file, load_plan

ERRORS = Path(__file__).parents[1] / "errors"
FILES = ERRORS / "files"
EXAMPLE = Path(__file__).parents[2] / "examples" / "speculative" / "plan.edge"

PLAN = """\
plan pair
let ctx = 256
let sizes = [1, 4]
device host
model target {{ source = hf("{files}/tiny")   context = ctx }}
model draft  {{ source = hf("{files}/small")  context = ctx }}
evaluation {{ text = "{files}/*.txt"  windows = 4 }}
calibration {{ text = ["{files}/text.txt"] }}
pipeline p {{
  quantize(weights = int4) except ["lm_head", "embed_tokens"]
  quantize(weights = int8, block = channel) on "lm_head"
  bucket(tokens = sizes, context = ctx)
}}
deploy target on cpu through p as ort
deploy draft on cpu as ort {{ kv = fp16 }}
speculate draft -> target {{ k = 3 }}
require {{
  bundle.size       <= 1.5 MB
  target.perplexity <= 1.03 * baseline
  draft.perplexity  < 40
}}
"""


@pytest.fixture
def plan_file(tmp_path):
    def write(text: str = PLAN, name: str = "plan.edge") -> Path:
        path = tmp_path / name
        path.write_text(text.format(files=os.path.relpath(FILES, tmp_path)) if text is PLAN else text)
        return path

    return write


def codes_of(path: Path, *defines: str) -> list[str]:
    return [diagnostic.code for diagnostic in check_file(path, defines)[1]]


def test_a_right_plan_is_typed_and_resolved(plan_file):
    plan = load_plan(plan_file())
    assert plan.name == "pair"
    assert [device.name for device in plan.devices] == ["host"]
    assert plan.models["target"].context == 256
    assert plan.models["target"].source.path.resolve() == FILES / "tiny"
    assert plan.defines == {"ctx": 256, "sizes": [1, 4]}
    assert plan.evaluation is not None
    assert [path.name for path in plan.evaluation.text] == ["text.txt"]
    assert plan.calibration is not None
    assert (plan.calibration.samples, plan.calibration.length) == (128, 512)
    steps = plan.pipelines["p"].steps
    assert [step.pass_name for step in steps] == ["quantize", "quantize", "bucket"]
    assert steps[0].on is None
    assert steps[0].except_ == ("lm_head", "embed_tokens")
    assert steps[1].on == ("lm_head",)
    assert vars(steps[1].pass_)["block"] == "channel"
    assert steps[2].demands.buckets == ((1, 256), (4, 256))
    assert (steps[2].span.line, steps[2].span.column) == (12, 3)
    assert [(deploy.model, deploy.device, deploy.pipeline, deploy.target) for deploy in plan.deploys] == [
        ("target", "cpu", "p", "ort"),
        ("draft", "cpu", None, "ort"),
    ]
    assert (plan.speculates[0].k, plan.speculates[0].accept) == (3, "greedy")
    sizes = [(require.subject, require.op, require.value, require.relative_to_baseline) for require in plan.requires]
    assert sizes == [
        ("bundle.size", "<=", 1.5e6, False),
        ("target.perplexity", "<=", 1.03, True),
        ("draft.perplexity", "<", 40.0, False),
    ]
    assert plan.requires[1].text == "target.perplexity <= 1.03 * baseline"
    assert plan.requires[1].holds(10.2, baseline=10.0)
    assert not plan.requires[1].holds(10.4, baseline=10.0)


def test_definitions_override_lets_of_the_same_kind(plan_file):
    path = plan_file()
    assert load_plan(path, ["ctx=128"]).models["draft"].context == 128
    assert vars(load_plan(path, ["sizes=[1, 4, 8]"]).pipelines["p"].steps[2].pass_)["tokens"] == (1, 4, 8)
    assert codes_of(path, "ctx=many") == ["E0207"]
    assert codes_of(path, "ctx=1.5") == ["E0207"]
    assert codes_of(path, "ctx=[") == ["E0006"]
    assert codes_of(path, "ctx=1024") == ["E0338", "E0338"]
    assert codes_of(path, "nothing=1") == ["E0113"]


def test_a_definition_of_a_string_needs_no_quotes(plan_file):
    text = PLAN.format(files="F").split("\n")
    text[1] += '\nlet dir = "nowhere"\nmodel extra { source = hf(dir)  context = 64 }\ndeploy extra on cpu as ort'
    path = plan_file("\n".join(text).replace("F/", f"{FILES}/"))
    assert codes_of(path) == ["E0301"]
    assert codes_of(path, f"dir={FILES}/tiny") == []


def test_every_mistake_comes_out_of_one_run(tmp_path):
    found = check_file(ERRORS / "newcomer" / "many_at_once.edge")[1]
    assert len({diagnostic.code for diagnostic in found}) >= 9
    places = [(diagnostic.at.span.line, diagnostic.at.span.column) for diagnostic in found if diagnostic.at]
    assert places == sorted(places)


def test_a_declaration_that_does_not_read_makes_no_unknown_names(plan_file):
    path = plan_file(PLAN.format(files=str(FILES)).replace("model draft  { source =", "model draft  { source :"))
    assert codes_of(path) == ["E0001"]
    path = plan_file(PLAN.format(files=str(FILES)).replace("let ctx = 256", "let ctx = 256 256"))
    assert codes_of(path) == ["E0001"]
    path = plan_file(
        PLAN.format(files=str(FILES))
        .replace("pipeline p {", "pipeline p [")
        .replace("on cpu as ort {", "on cpu as ort [")
    )
    assert set(codes_of(path)) == {"E0006"}


def test_includes_share_parts_relative_to_their_own_file(plan_file, tmp_path):
    (tmp_path / "parts").mkdir()
    models = "\n".join(PLAN.format(files=str(FILES)).split("\n")[1:6])
    (tmp_path / "parts" / "models.edge").write_text(models + '\ninclude "deep.edge"\n')
    (tmp_path / "parts" / "deep.edge").write_text("pipeline p { quantize(weights = int4) }\n")
    body = 'include "parts/models.edge"\ninclude "parts/deep.edge"\ndeploy target on cpu through p as ort\n'
    plan, diagnostics, sources = check_file(plan_file(body))
    assert plan is not None, diagnostics
    assert [diagnostic.code for diagnostic in diagnostics] == ["W0302", "W0307"]
    assert len(sources) == 3
    (tmp_path / "parts" / "deep.edge").write_text("pipeline p { quantize(weights = int5) }\n")
    (found,) = (d for d in check_file(plan_file(body))[1] if d.severity == "error")
    assert found.at is not None
    assert found.at.span.file.endswith("deep.edge")
    assert codes_of(plan_file('include "missing.edge"\n' + body)).count("E0301") == 1


USED = '''\
from dataclasses import dataclass

from edgec.compiler.plan.parameters import Pattern, param
from edgec.compiler.pipeline.pass_interface import Pass


@dataclass(frozen=True)
class Mine(Pass):
    """All kinds of parameters."""

    name = "mine"
    share: float = param(0.5, doc="a share", unit="%", minimum=0, maximum=1)
    width: float = param(4.0, doc="a width", unit="bits", minimum=1)
    limit: int = param(1024, doc="a size", unit="B")
    rate: float = param(1.0, doc="a rate", unit="tok/s")
    time: float = param(0.0, doc="a duration", unit="s", minimum=0)
    shape: Pattern = param(Pattern(2, 4), doc="a pattern")
    names: tuple[str, ...] = param((), doc="some names")
    shard: int | str = param("auto", doc="parts", choices=("auto",), minimum=1)
    fast: bool = param(False, doc="a switch")

    def run(self, module, scope):
        return 0
'''

STEP = (
    "share = 80%, width = 4.5 bits, limit = 1.5 KiB, rate = 15 tok/s, time = 1.5 min, "
    'shape = 4:8, names = "a", shard = 2, fast = true'
)


@pytest.fixture
def used(plan_file, tmp_path):
    """A plan that uses a file of passes, with one step of `mine`."""
    (tmp_path / "mine.py").write_text(USED)

    def write(step: str) -> Path:
        text = PLAN.format(files=str(FILES)).replace("pipeline p {", f'use "mine.py"\npipeline p {{\n mine({step})')
        return plan_file(text)

    return write


def test_passes_of_a_used_file_and_every_kind_of_parameter(used):
    made = vars(load_plan(used(STEP)).pipelines["p"].steps[0].pass_)
    assert made["share"] == 0.8
    assert made["width"] == 4.5
    assert made["limit"] == 1536
    assert made["rate"] == 15.0
    assert made["time"] == 90.0
    assert str(made["shape"]) == "4:8"
    assert made["names"] == ("a",)
    assert (made["shard"], made["fast"]) == (2, True)


@pytest.mark.parametrize(
    ("step", "code"),
    [
        ("share = 0.8", "E0202"),
        ("share = 120%", "E0203"),
        ("share = 3 bits", "E0202"),
        ("width = 4", "E0202"),
        ("width = 0.5 bits", "E0203"),
        ("limit = 1024", "E0202"),
        ("limit = 1 GiBs", "E0202"),
        ("rate = 10 bits", "E0202"),
        ("time = 20", "E0202"),
        ("time = 20 MB", "E0202"),
        ("time = 20 minutes", "E0202"),
        ("time = -1 s", "E0203"),
        ("shape = 2", "E0201"),
        ("shape = 4:2", "E0203"),
        ("names = [1]", "E0201"),
        ("names = []", "E0203"),
        ("names = somewhere", "E0107"),
        ("shard = aut", "E0204"),
        ("shard = 0", "E0203"),
        ("shard = 1.5", "E0201"),
        ("shard = [1, 2]", "E0201"),
        ("fast = yes", "E0107"),
        ("fast = 1", "E0201"),
        ('share = hf("x")', "E0201"),
    ],
)
def test_values_of_the_wrong_kind(used, step, code):
    assert codes_of(used(step)) == [code]


MORE = '''\
from dataclasses import dataclass

from edgec.compiler.pipeline.graphsurgeon import graphsurgeon_pass
from edgec.compiler.plan.parameters import param
from edgec.compiler.pipeline.pass_interface import Pass
from edgec.passes.quantize import Quantize

SAME = Quantize


class Base(Pass):
    def run(self, module, scope):
        return 0


@dataclass(frozen=True)
class Mine(Base):
    """A pass with a base of its own."""

    name = "mine"


@graphsurgeon_pass
def tidy(graph, *, rounds: int = param(1, doc="how often", minimum=1)):
    """Written against a gs.Graph."""
    return 0
'''


def test_used_files_may_import_passes_have_bases_and_be_written_in_graphsurgeon(plan_file, tmp_path):
    (tmp_path / "mine.py").write_text(MORE)
    text = PLAN.format(files=str(FILES)).replace("pipeline p {", 'use "mine.py"\npipeline p {\n mine tidy(rounds = 2)')
    plan, diagnostics, _ = check_file(plan_file(text))
    assert plan is not None, diagnostics
    assert [step.pass_name for step in plan.pipelines["p"].steps[:2]] == ["mine", "tidy"]
    assert codes_of(plan_file(text.replace("rounds = 2", "rounds = 0"))) == ["E0203"]


@pytest.mark.parametrize(
    ("body", "line", "says"),
    [
        ("x = (1\n", 1, "was never closed"),
        ("import nothing_of_this_name\n", 1, "ModuleNotFoundError"),
        ("def f():\n    raise KeyError('k')\n\nf()\n", 2, "KeyError"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit"),
    ],
)
def test_a_used_file_that_fails_is_told_with_its_line(plan_file, tmp_path, body, line, says):
    (tmp_path / "bad.py").write_text(body)
    path = plan_file(PLAN.format(files=str(FILES)) + 'use "bad.py"\n')
    (found,) = check_file(path)[1]
    assert found.code == "E0304"
    assert says in found.message
    assert found.at is not None
    assert (Path(found.at.span.file).name, found.at.span.line) == ("bad.py", line)


def test_an_onnx_graph_is_loaded_for_its_names(plan_file):
    text = f"""device host
model g {{ source = onnx("{FILES}/graph.onnx") }}
pipeline p {{ quantize(weights = int8, block = channel) on ["proj", "Relu_*"] }}
deploy g on cpu through p as ort
"""
    assert "E0307" not in codes_of(plan_file(text))
    assert codes_of(plan_file(text.replace("Relu_", "Gelu_"))) == ["E0307"]
    assert codes_of(plan_file(text.replace("graph.onnx", "text.txt"))) == ["E0371"]


def test_checking_executes_nothing_but_used_files(plan_file, tmp_path):
    (tmp_path / "never.py").write_text("raise SystemExit('executed')\n")
    path = plan_file(PLAN.format(files=str(FILES)) + '# use "never.py"\nlet s = "use never.py"\n')
    assert codes_of(path) == []


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "E0212"),
        (b"# nothing but a comment\n", "E0212"),
        (b"device host\x00\n", "E0002"),
        (b'let a = "x\x00y"\n', "E0002"),
        (b"# comment \x00\n", "E0002"),
        (b'let a = "\\u0000"\n', "E0007"),
        (b'let a = "\\ud800"\n', "E0007"),
        (b"a" * 5000, "E0011"),
        (b'use "' + b"x" * 5000 + b'"', "E0301"),
        (b'include "' + b"x" * 5000 + b'"', "E0302"),
        (b'model m { source = hf("' + b"x" * 5000 + b'") context = 9 }', "E0301"),
        (b'calibration { text = "' + b"x" * 5000 + b'" }', "E0301"),
        (b'calibration { text = "' + b"x" * 5000 + b'*" }', "E0306"),
        (b"device [[[host]]]", "E0201"),
        (b"\xff\xfed\x00e\x00", "E0004"),
        (b"device h\xe9st\n", "E0004"),
        (b'let a = "x\n', "E0003"),
        (b"x" * 300_000, "E0009"),
    ],
)
def test_odd_files(tmp_path, raw, code):
    path = tmp_path / "odd.edge"
    path.write_bytes(raw)
    plan, diagnostics, _ = check_file(path)
    assert plan is None
    assert [diagnostic.code for diagnostic in diagnostics] == [code]


def test_a_byte_order_mark_windows_lines_and_tabs_are_fine(tmp_path):
    text = PLAN.format(files=str(FILES)).replace("\n", "\r\n").replace("  ", "\t")
    path = tmp_path / "plan.edge"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert codes_of(path) == []


def test_a_missing_file_a_folder_and_an_include_of_itself(tmp_path):
    assert codes_of(tmp_path / "none.edge") == ["E0301"]
    assert codes_of(tmp_path) == ["E0302"]
    path = tmp_path / "self.edge"
    path.write_text('include "self.edge"\nlet a = 1\n')
    assert "E0303" in codes_of(path)


@pytest.mark.parametrize("seed", range(150))
def test_a_plan_with_pieces_changed_never_crashes(tmp_path, seed):
    """Tokens dropped, doubled, replaced, swapped: a plan, or errors that can be drawn."""
    rng = random.Random(seed)
    tokens = re.findall(r'\s+|"[^"]*"|\w+|.', PLAN.format(files=str(FILES)))
    also = ["80%", "2:4", "3 GiB", "true", '"x"', "[", "]", "on", "except", "[1, 2]", 'hf("x")', "-1", "baseline"]
    for _ in range(rng.randint(1, 4)):
        i, j = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        change = rng.choice(["drop", "insert", "replace", "swap"])
        if change == "swap":
            tokens[i], tokens[j] = tokens[j], tokens[i]
        elif change == "drop":
            tokens[i] = ""
        else:
            tokens[i] = rng.choice([*tokens, *also]) + (tokens[i] if change == "insert" else "")
    path = tmp_path / "plan.edge"
    path.write_text("".join(tokens))
    plan, diagnostics, sources = check_file(path)
    assert (plan is None) == any(diagnostic.severity == "error" for diagnostic in diagnostics)
    assert all(render(diagnostic, sources) for diagnostic in diagnostics)


def test_load_plan_raises_with_all_errors():
    with pytest.raises(PlanError) as caught:
        load_plan(ERRORS / "newcomer" / "many_at_once.edge")
    assert len(caught.value.diagnostics) > 8
    assert caught.value.exit_code == 1


def test_json_form_is_complete():
    found = to_json(check_file(ERRORS / "E0109.edge")[1])
    assert found[0]["code"] == "E0109"
    assert set(found[0]) == {"code", "severity", "message", "at", "also", "help"}


def test_the_example_is_right():
    plan, diagnostics, _ = check_file(EXAMPLE)
    assert plan is not None, diagnostics


@pytest.fixture
def looked_at():
    """The example's dry run is remembered in the cache."""
    subprocess.run([sys.executable, "-m", "edgec.compiler.cli", "check", str(EXAMPLE)], check=True, capture_output=True)


@pytest.mark.parametrize("option", [[], ["--fast"]], ids=["remembered", "fast"])
def test_check_imports_nothing_heavy(looked_at, option):
    script = (
        "import sys\nfrom edgec.compiler.cli import main\n"
        f"code = main(['check', {str(EXAMPLE)!r}, *{option!r}])\n"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'torch', 'MNN', 'rich', 'tokenizers'} & set(sys.modules)\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def _cpu_seconds(*arguments: str) -> float:
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_check_is_quick(looked_at):
    """CPU time of the whole process, best of three, beside an import of torch, which it does without.

    A bound in seconds failed where the cores run at half their speed.
    """
    pairs = [
        (_cpu_seconds("-m", "edgec.compiler.cli", "check", str(EXAMPLE)), _cpu_seconds("-c", "import torch"))
        for _ in range(3)
    ]
    assert min(check for check, _ in pairs) < 0.5 * min(heavy for _, heavy in pairs)


def test_a_plan_with_more_mistakes_than_can_be_read_is_cut(tmp_path, golden_error):
    path = tmp_path / "plan.edge"
    path.write_text("device host\n" + "".join(f"deploy m{i} on cpu as ort\n" for i in range(150)))
    start = time.process_time()
    found = check_file(path)[1]
    assert time.process_time() - start < 3
    assert len(found) == 101
    golden_error("E0010", found[-1:])


def test_a_file_too_large_to_be_a_plan(tmp_path, golden_error):
    path = tmp_path / "plan.edge"
    path.write_text("[" * 10**6)
    golden_error("E0009", check_file(path)[1], hide={str(tmp_path): "DIR"})


def test_an_unknown_code_asked_for(golden_error):
    from argparse import Namespace

    from edgec.compiler.commands.lists import run_explain

    with pytest.raises(PlanError) as caught:
        run_explain(Namespace(code="E0103x"))
    golden_error("E0112", caught.value)
    assert "E0103" in codes()


BLOCKS = """\
device host
model target {{ source = {source} }}
pipeline p {{ {steps} }}
deploy target on cpu through p as ort
"""


@pytest.fixture
def blocks(plan_file, tmp_path):
    """Codes of a plan with `steps` on a model with inputs of 64 and 96."""

    def found(steps: str, source: str = f'hf("{FILES}/tiny")  context = 64') -> list[str]:
        (tmp_path / "mine.py").write_text(USED)
        use = 'use "mine.py"\n' if "mine" in steps else ""
        return [one for one in codes_of(plan_file(use + BLOCKS.format(source=source, steps=steps))) if one[0] == "E"]

    return found


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        ("quantize(weights = int4, block = 64)", 1),
        ("quantize(weights = int4, block = 128)", 1),
        ("quantize(weights = int4, block = 32)", 0),
        ("quantize(weights = int4, block = channel)", 0),
        ('quantize(weights = int4, block = 64) except "*.down_proj"', 0),
        ('quantize(weights = int4, block = 64) on "*.up_proj"', 0),
        ('rotate() quantize(weights = int4, block = 64) on "*.down_proj"', 1),
        ('quantize(weights = int8) quantize(weights = int4, block = 64) place(device = cpu) on "norm"', 1),
        ("mine(share = 50%) quantize(weights = int4, block = 64)", 0),  # `mine` may change shapes
    ],
)
def test_a_block_has_to_divide_what_the_line_selects(blocks, steps, wrong):
    assert blocks(steps) == ["E0413"] * wrong


def test_a_block_has_to_divide_the_inputs_in_an_onnx_graph(blocks, tmp_path):
    import numpy as np
    import onnx
    from onnx import numpy_helper, parser

    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 24]>
        m (float[N,48] x, double[N,40] z, float[1,3,8,8] i) => (float[N,64] y, double[N,8] u, float[1,4,6,6] v)
        { h = MatMul(x, a) y = MatMul(h, b) u = MatMul(z, c) v = Conv(i, d) }"""
    )
    shapes = {"a": (48, 8), "b": (8, 64), "c": (40, 8), "d": (4, 3, 3, 3)}
    for name, shape in shapes.items():
        array = np.zeros(shape, "f8" if name == "c" else "f4")
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "m.onnx")
    source = f'onnx("{tmp_path}/m.onnx")'
    assert blocks("quantize(weights = int4, block = 16)", source) == ["E0413"]  # MatMul_1 has 8 inputs
    assert blocks('quantize(weights = int4, block = 16) except "MatMul_1"', source) == []
