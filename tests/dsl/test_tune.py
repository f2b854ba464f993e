"""`let x = tune(a, b)` and `goal = …`: what they mean to a plan that nobody has tuned."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgec.dsl import check_file
from edgec.dsl.parser import parse_text
from edgec.dsl.printer import show

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "models" / "pycode-qwen2"
PLAN = f"""
plan tuned
device host
model m {{ source = hf("{MODEL}")  context = ctx }}
let ctx = tune(64, 128)
let block = tune(32, 64, channel)
let engine = tune(ort, mnn)
evaluation {{ text = "{ROOT / "examples" / "text" / "modules.txt"}"  windows = 1 }}
pipeline p {{ quantize (weights = int8, block = block) }}
deploy m on cpu through p as engine
"""


def checked(text: str, *defines: str):
    return check_file(Path("plan.edge"), defines, text)


def test_the_first_value_stands_until_one_is_chosen() -> None:
    plan, found, _ = checked(PLAN)
    assert plan is not None
    assert plan.defines == {"ctx": 64, "block": 32, "engine": "ort"}
    assert [one.code for one in found] == ["W0311"] * 3
    assert plan.tuned == {"ctx": ("64", "128"), "block": ("32", "64", "channel"), "engine": ("ort", "mnn")}
    assert plan.deploys[0].target == "ort"


def test_a_chosen_value_is_as_any_other() -> None:
    plan, found, _ = checked(PLAN, "ctx=128", "block=channel", "engine=mnn")
    assert plan is not None
    assert found == []
    assert (plan.defines["block"], plan.deploys[0].target, plan.models["m"].context) == ("channel", "mnn", 128)
    _, found, _ = checked(PLAN, "engine=12")
    assert "E0207" in {one.code for one in found}


@pytest.mark.parametrize("where", ["goal = {}\n", "require {{ bundle.size <= 5 MB  goal = {} }}\n"])
def test_a_goal_stands_alone_or_in_require(where: str) -> None:
    plan, found, _ = checked(PLAN + where.format("bundle.size"))
    assert plan is not None, found
    assert plan.goal is not None
    assert plan.goal.subject == "bundle.size"
    tree = parse_text(PLAN + where.format("m.perplexity"))
    assert parse_text(show(tree)) == tree


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("goal = bundle.sise", "E0116"),
        ("goal = x.perplexity", "E0116"),
        ("goal = decode.rate", "E0117"),
        ("goal = bundle.size\ngoal = m.perplexity", "E0109"),
        ("goal bundle.size", "E0001"),
        ("let a = tune()", "E0001"),
        ("let a = [tune(1, 2)]", "E0001"),
        ("let a = tune(1)", "E0228"),
        ("let a = tune(1, 1)", "E0228"),
        ('let a = tune(1, "1")', "E0228"),
        ("let a = tune(b, 3)\nlet b = a", "E0111"),
    ],
)
def test_what_is_wrong_is_told(line: str, code: str) -> None:
    plan, found, _ = checked(f"{PLAN}{line}\n")
    assert plan is None
    assert code in {one.code for one in found}, found


def test_a_goal_of_perplexity_needs_a_text() -> None:
    text = "\n".join(line for line in PLAN.splitlines() if not line.startswith("evaluation"))
    _, found, _ = checked(f"{text}\ngoal = m.perplexity\n")
    assert "E0216" in {one.code for one in found}


def test_names_that_are_taken_are_no_lets() -> None:
    """A pipeline, a place or a target keeps its name, whatever a let is called."""
    plan, found, _ = checked(PLAN + "let p = 3\nlet cpu = npu\n")
    assert plan is not None, found
    assert (plan.deploys[0].device, plan.deploys[0].pipeline) == ("cpu", "p")
