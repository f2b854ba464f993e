"""`auto` in plans: buckets, k, what is refused, and the acceptance that a compile measures."""

import os
from pathlib import Path

import pytest
from edgec.compiler.compile import acceptance
from edgec.compiler.compile.acceptance import known_acceptance, measure_acceptance
from edgec.compiler.compile.decide import decide
from edgec.compiler.driver import check_plan, load_plan

ROOT = Path(__file__).resolve().parents[2] / "examples"
PLAN = """
device {device}
model target {{ source = hf("{models}/pycode-qwen3")  context = 512 }}
model draft  {{ source = hf("{models}/pycode-qwen2")  context = 512 }}
evaluation {{ text = "{text}"  windows = 8 }}
pipeline npu {{ {bucket} }}
deploy target on {place} through npu as {target}
deploy draft on cpu as mnn
speculate draft -> target {{ k = {k} {form} }}
"""


@pytest.fixture
def write(tmp_path):
    def make(bucket, k="3", device="snapdragon_8_gen_3", place="npu", target="qnn", form=""):
        path = tmp_path / "p.edge"
        text = ROOT / "text" / "modules.txt"
        facts = {"bucket": bucket, "k": k, "device": device, "place": place, "target": target, "form": form}
        path.write_text(PLAN.format(models=ROOT / "models", text=text, **facts))
        return path

    return make


def buckets(plan):
    step = plan.steps(plan.deploys[0])[-1]
    return step.pass_.tokens, step.pass_.context


def codes(path):
    return [one.code for one in check_plan(path, fast=True)[1] if one.severity == "error"]


@pytest.mark.parametrize("k", [1, 3, 6])
def test_a_round_of_speculation_has_its_bucket(write, k):
    tokens, context = buckets(load_plan(write("bucket (tokens = auto, context = auto)", str(k))))
    assert {1, k + 1} <= set(tokens)
    assert max(context) == 512


def test_k_goes_by_the_acceptance_and_the_buckets(write, monkeypatch):
    from edgec.compiler.compile import decide as module

    path = write("bucket (tokens = auto, context = [512])", "auto")
    for chance, least, most in ((0.05, 1, 1), (0.95, 8, 15)):
        monkeypatch.setattr(module, "known_acceptance", lambda plan, line, chance=chance: chance)
        plan = load_plan(path)
        assert least <= plan.speculates[0].k <= most
        assert plan.speculates[0].k + 1 in buckets(plan)[0]
    listed = load_plan(write("bucket (tokens = [1, 3, 5, 64], context = [512])", "auto"))
    assert listed.speculates[0].k == 4


def test_a_tree_has_its_bucket_and_its_k(write):
    plan = load_plan(write("bucket (tokens = auto, context = [512])", "auto", form="tree = 11 overlap = true"))
    assert 12 in buckets(plan)[0]
    assert 1 < plan.speculates[0].k <= 11
    assert load_plan(write("bucket (tokens = [1, 16], context = auto)", "4", form="tree = 11")).speculates[0].tree == 11
    assert load_plan(write("bucket (tokens = auto, context = [512])", "auto", form="tree = 2")).speculates[0].k <= 2


@pytest.mark.parametrize(
    ("bucket", "k", "form", "code"),
    [
        ("bucket (tokens = [1, 16], context = [512])", "4", "tree = 16", "E0210"),
        ("bucket (tokens = [1, 16], context = auto)", "4", "tree = 16", "E0210"),
        ("bucket (tokens = [1, 16], context = [512])", "16", "", "E0210"),
        ("bucket (tokens = [1, 16], context = [512])", "4", "tree = 3", "E0203"),
        ("bucket (tokens = [1, 16], context = [512])", "4", "tree = 0", "E0203"),
    ],
)
def test_trees_that_cannot_be(write, bucket, k, form, code):
    assert codes(write(bucket, k, form=form)) == [code]


def test_the_acceptance_is_measured_once_and_decides(write, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(acceptance, "WINDOWS", 2)
    plan = load_plan(write("bucket (tokens = auto, context = [512])", "auto"))
    line = plan.speculates[0]
    assert known_acceptance(plan, line) is None
    said = []
    measure_acceptance(plan, said.append)
    measure_acceptance(plan, said.append)
    assert len(said) == 1
    found = known_acceptance(plan, line)
    assert found is not None
    assert 0.4 < found < 0.95
    again = decide(plan)
    assert again.speculates[0].k + 1 in buckets(again)[0]


def test_a_device_without_figures_has_buckets_too(write):
    plan = load_plan(write("bucket (tokens = auto, context = auto)", "auto", "host", "cpu", "ort"))
    assert 1 in buckets(plan)[0]


@pytest.mark.parametrize(
    ("bucket", "k", "code"),
    [
        ("bucket (tokens = [1, auto], context = [512])", "3", "E0206"),
        ("bucket (tokens = auto, context = [512], histogram = \"absent.txt\")", "3", "E0417"),
        ("bucket (tokens = auto, context = [1024])", "3", "E0408"),
        ("bucket (tokens = [1, 4], context = [512], max_waste = 10%)", "3", "E0206"),
        ("bucket (tokens = [1, 4], context = [512], histogram = \"x\")", "3", "E0206"),
        ("bucket (tokens = [1, 4], context = auto)", "7", "E0210"),
        ("bucket (tokens = [1, 64], context = [512])", "auto", "E0210"),
        ("bucket (tokens = [600], context = auto)", "599", "E0203"),
        ("bucket (tokens = automatic, context = [512])", "3", "E0204"),
    ],
)  # fmt: skip
def test_what_is_refused(write, bucket, k, code):
    assert codes(write(bucket, k)) == [code]


def test_a_file_that_is_no_histogram(write, tmp_path, golden_error):
    (tmp_path / "p.txt").write_text("12 people\n")
    _, found, sources = check_plan(write('bucket (tokens = auto, context = [512], histogram = "p.txt")'), fast=True)
    golden_error("E0417", [one for one in found if one.code == "E0417"], sources, {str(tmp_path): "TMP"})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "it counts no prompt"),
        ("5 0\n", "it counts no prompt"),
        ("-5 3\n", "a length above 0"),
        ("5 -3\n", "a length above 0"),
        ("5 nan\n", "a length above 0"),
        ("5 1e13\n", "a length above 0"),
        ("512 3\n900 1\n", "prompts of 512 tokens and more leave no room in 512"),
        ("5 3\n" * 10_001, "more than 10,000 lines"),
        ("12 3" + " " * (1 << 20), "more than 1,048,576 bytes"),
        (None, "it is a named pipe, not a file"),
    ],
)
def test_a_histogram_that_cannot_be_one(write, tmp_path, content, says):
    if content is None:
        os.mkfifo(tmp_path / "p.txt")  # nobody writes to it
    else:
        (tmp_path / "p.txt").write_text(content)
    _, found, _ = check_plan(write('bucket (tokens = auto, context = [512], histogram = "p.txt")'), fast=True)
    assert [says in one.message for one in found if one.code == "E0417"] == [True]


def test_the_text_as_a_source_of_drafts(write):
    assert load_plan(write("bucket (tokens = auto, context = [512])", "3")).speculates[0].source == "draft"
    assert (
        load_plan(write("bucket (tokens = auto, context = [512])", "3  source = prompt")).speculates[0].source
        == "prompt"
    )
    assert codes(write("bucket (tokens = auto, context = [512])", "3  source = text")) == ["E0204"]
