"""`accept` on a deploy line: warnings of the checker, of the model's files and of what is found later, not others'."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgec.compiler.driver import check_plan
from edgec.dsl import check_file

MODELS = Path(__file__).parents[2] / "examples" / "models"
PLAN = """plan p
device host
model chat  { source = hf("MODELS/pycode-qwen3")  context = 64 }
model small { source = hf("MODELS/pycode-qwen2")  context = 64 }
pipeline cpu { quantize (weights = int4, block = 32)  except ["lm_head", "embed_tokens"] }
pipeline idle { }
deploy chat  on cpu through cpu as ort CHAT
deploy small on cpu through cpu as mnn SMALL
"""
ONE = '{ accept = W0307  reason = "a trial" }'
ALL = '{ accept = [W0301, W0307]  reason = "a trial" }'


def warnings(tmp_path: Path, chat: str = "", small: str = "", more: str = "") -> list[tuple[str, str | None]]:
    text = PLAN.replace("MODELS", str(MODELS)).replace("CHAT", chat).replace("SMALL", small) + more
    path = tmp_path / "p.edge"
    path.write_text(text)
    plan, found, _ = check_file(path)
    assert plan is not None
    assert plan.warnings == tuple(found)
    return [(one.code, one.accepted) for one in found]


@pytest.mark.parametrize(
    ("chat", "small", "expected"),
    [
        ("", "", [("W0307", None), ("W0307", None), ("W0301", None)]),
        (ONE, "", [("W0307", "a trial"), ("W0307", None), ("W0301", None)]),
        (ONE, ALL, [("W0307", "a trial"), ("W0307", "a trial"), ("W0301", "a trial")]),
        ('{ accept = W0304  reason = "x" }', ALL, [("W0307", None), ("W0307", "a trial"), ("W0301", "a trial"), "new"]),
    ],
)
def test_a_line_accepts_what_is_about_its_model_or_the_plan(tmp_path: Path, chat: str, small: str, expected) -> None:
    expected = [("W0306", None) if one == "new" else one for one in expected]
    assert sorted(warnings(tmp_path, chat, small), key=str) == sorted(expected, key=str)


def test_a_larger_draft_is_accepted_on_either_line(tmp_path: Path) -> None:
    more = "speculate chat -> small { k = 3 }\n"
    assert ("W0305", None) in warnings(tmp_path, ONE, ALL, more)
    for chat, small in (('{ accept = W0305  reason = "a trial" }', ""), ("", ONE.replace("W0307", "W0305"))):
        assert ("W0305", "a trial") in warnings(tmp_path, chat, small, more)


@pytest.mark.parametrize(("tokenizer", "code"), [(False, "W0332"), (True, "W0306")])
def test_what_is_found_behind_the_checker_is_accepted_too(tmp_path: Path, tokenizer: bool, code: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in (MODELS / "pycode-qwen3").iterdir():
        if tokenizer or not file.name.startswith(("tokenizer", "special")):
            (model / file.name).symlink_to(file)
    path = tmp_path / "p.edge"
    accept = '{ accept = W0332  reason = "ids alone" }'
    path.write_text(f'device host\nmodel m {{ source = hf("model") context = 64 }}\ndeploy m on cpu as ort {accept}\n')
    plan, found, _ = check_plan(path)
    assert plan is not None
    assert [(one.code, one.accepted) for one in found] == [(code, None if tokenizer else "ids alone")]
    assert plan.warnings == tuple(found)
