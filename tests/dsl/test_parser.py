"""The parser: the whole language reads, spans are exact, bad text gives few and good messages, fast."""

from __future__ import annotations

import random
import time

import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.plan.parameters import Pattern
from edgec.dsl import ast
from edgec.dsl.parser import parse, parse_text, parse_value
from edgec.dsl.plan_text import PlanText
from edgec.dsl.scanner import MAX_DEPTH, MAX_PROBLEMS

WHOLE = """\
# Qwen3-4B verifies on the NPU what Qwen2.5-0.5B drafts on the CPU
plan speculative
let ctx = 2048                                        # edgec compile -D ctx=4096
include "common.edge"
use "my_passes.py"
device snapdragon_8_gen_3
model target { source = hf("models/qwen3-4b")     context = ctx }
model draft  { source = onnx("draft.onnx") context = ctx }
calibration { text = "calib/*.txt"   samples = 128  length = 512  seed = 0 }
evaluation  { text = "eval/wiki.txt" windows = 32 }
pipeline npu {
  quantize (weights = int4, block = 32, method = gptq, activations = uint16)  except ["lm_head", "embed_tokens"]
  place    (device = cpu)                                                     on "embed_tokens"
  bucket   (tokens = [1, 4, 128], context = [512, ctx])
}
pipeline sparse { sparsify(pattern = 2:4, method = sparsegpt) on "layers.*.mlp.*" except "lm_head" }
pipeline int8 { shadow(coverage = 80%, max_channels = 2.5 %, symmetric = false, budget = 4.5 bits,) plain }
deploy target on npu through npu as qnn { shard = auto }
deploy draft  on cpu as mnn
speculate draft -> target { k = 3  accept = greedy }
require {
  bundle.size       <= 3.4 GiB
  target.perplexity <= 1.03 * baseline
  decode.rate       >= 15 tok/s
}
"""


def problems(text: str) -> list[str]:
    return [problem.message for problem in parse(PlanText("plan.edge", text)).problems]


def test_the_whole_language_reads():
    tree = parse_text(WHOLE)
    kinds = [type(statement).__name__ for statement in tree.statements]
    assert kinds[:8] == ["PlanName", "Let", "Include", "Use", "Device", "Model", "Model", "Calibration"]
    assert kinds[8:] == ["Evaluation", "Pipeline", "Pipeline", "Pipeline", "Deploy", "Deploy", "Speculate", "Require"]


def test_spans_are_exact():
    tree = parse_text(WHOLE)
    pipeline = tree.statements[9]
    assert isinstance(pipeline, ast.Pipeline)
    place = pipeline.steps[1]
    assert (place.span.line, place.span.column, place.span.end_line) == (13, 3, 13)
    assert isinstance(place.on, ast.String)
    lines = WHOLE.split("\n")
    span = place.on.span
    assert lines[span.line - 1][span.column - 1 : span.end_column - 1] == '"embed_tokens"'


def test_columns_count_characters_behind_tabs_crlf_and_wide_signs():
    tree = parse_text('let s = "åß→"\r\n\tlet n = 1\r\n')
    assert tree.statements[1].span.line == 2
    assert tree.statements[1].span.column == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-12", -12),
        ("1_000", 1000),
        ("1.5", 1.5),
        ("1e-3", 0.001),
        ("2.5E+2", 250.0),
        ("true", True),
        ("false", False),
        ("2:4", Pattern(2, 4)),
        ('"a\\"b\\\\c\\n\\t\\u00e9"', 'a"b\\c\n\té'),
        ('""', ""),
    ],
)
def test_literals(text, value):
    node = parse_value(text, "-D")
    assert isinstance(node, ast.Number | ast.Boolean | ast.PatternLiteral | ast.String)
    assert node.value == value
    assert type(node.value) is type(value)


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("3.4 GiB", 3.4, "GiB"),
        ("512MiB", 512, "MiB"),
        ("15 tok/s", 15, "tok/s"),
        ("4.5 bits", 4.5, "bits"),
        ("1 bit", 1, "bit"),
        ("20 min", 20, "min"),
        ("90s", 90, "s"),
        ("3 GiBs", 3, "GiBs"),
        ("1e3 KB", 1000.0, "KB"),
    ],
)
def test_quantities(text, number, unit):
    assert parse_value(text, "-D") == ast.Quantity(None, number, unit)  # type: ignore[arg-type]


def test_a_key_behind_a_number_is_no_unit():
    tree = parse_text("calibration { samples = 128  length = 512\n seed = 0 }")
    (block,) = tree.statements
    assert isinstance(block, ast.Calibration)
    assert [setting.key.text for setting in block.settings] == ["samples", "length", "seed"]


def test_keywords_are_names_where_a_name_is_expected():
    tree = parse_text('model model { plan = on }\npipeline device { use(model = let) on "on" }\ndeploy on on cpu as as')
    assert len(tree.statements) == 3


def test_errors_in_several_statements_come_out_of_one_run():
    found = problems('model a { source: 1 }\nlet b = [1 2]\npipeline c { }\ndeploy d npu as qnn\nlet e = "x\n')
    assert len(found) == 4


def test_a_missing_brace_costs_one_statement_only():
    parsed = parse(PlanText("p", 'model a { source = hf("x")\nmodel b { }\npipeline c {\n q(a = (1)\n}\nlet d = 1\n'))
    assert [problem.code for problem in parsed.problems] == ["E0006", "E0006"]
    assert [problem.at.span.line for problem in parsed.problems if problem.at] == [1, 5]
    assert [type(statement).__name__ for statement in parsed.file.statements] == ["Model", "Let"]
    assert {(lost.keyword, lost.name) for lost in parsed.lost} >= {("model", "a"), ("pipeline", "c")}


def test_nesting_is_bounded():
    deep = "let a = " + "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH
    assert problems(deep) == []
    assert problems("let a = [" + deep[8:] + "]") == [f"brackets nest deeper than {MAX_DEPTH}"]


NOISE = {
    "brackets": "[" * 10**6,
    "calls": "let a = " + "f(" * 500_000,
    "braces": "{}" * 500_000,
    "words": "a " * 500_000,
    "lines": "a\n" * 500_000,
    "digits": "1" * 10**6,
    "quotes": '"' * 10**6,
    "escapes": '"' + "\\" * 10**6,
    "bytes": random.Random(0).randbytes(10**6).decode("latin-1"),
    "keywords": "let " * 250_000,
    "units": "let a = " + "1 e" * 300_000,
    "comment": "#" * 10**6,
}


@pytest.mark.parametrize("kind", NOISE)
def test_a_megabyte_of_noise_is_refused_at_once(kind, tmp_path):
    """Through the scanner and parser themselves; `check_file` refuses such a file by its size already."""
    start = time.process_time()
    found = parse(PlanText("plan.edge", NOISE[kind])).problems
    assert time.process_time() - start < 15  # a second or two; what backtracks would take hours
    assert bool(found) == (kind != "comment")
    assert len(found) <= MAX_PROBLEMS


@pytest.mark.parametrize("seed", range(200))
def test_damaged_plans_never_crash(seed):
    """A plan with pieces cut, doubled and swapped gives a tree or diagnostics, nothing else."""
    rng = random.Random(seed)
    text = WHOLE
    for _ in range(rng.randint(1, 6)):
        a, b = sorted(rng.choices(range(len(text) + 1), k=2))
        piece = rng.choice(["", "{", "}", '"', "\n", "\x00", "let", "->", "9" * 50, "\\", text[a : a + 30]])
        text = text[:a] + piece + text[min(b, a + rng.randint(0, 40)) :]
    parsed = parse(PlanText("plan.edge", text))
    for problem in parsed.problems:
        assert problem.at is not None
        assert problem.at.span.line <= text.count("\n") + 1


@pytest.mark.parametrize("text", ["1 2", "", "]", "let a = 1", "f(", "1.2.3", '"a'])
def test_what_is_no_single_value_is_refused(text):
    with pytest.raises(PlanError):
        parse_value(text, "-D x")
