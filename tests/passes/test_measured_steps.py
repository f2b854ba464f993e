"""Perplexity counts a pass that changes numbers behind `bucket`, or the check says that it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.driver import load_plan

ROOT = Path(__file__).resolve().parents[2] / "examples"
COARSEN = '''\
from dataclasses import dataclass

from edgec.compiler.ir.levels import Level
from edgec.compiler.pipeline.pass_interface import Pass, Tolerance


@dataclass(frozen=True)
class Coarsen(Pass):
    """Halves the gain of the last norm: every logit is half of what it was."""

    name = "coarsen"
    takes = {takes}
    selects = False
    tolerance = Tolerance(0.6)

    def run(self, module, scope):
        from edgec.compiler.ir.weights import from_array

        halved = None
        for node in module.nodes("RMSNormalization"):
            if node.name == "norm":
                gain = node.inputs[1]
                halved = halved or from_array(gain.name, gain.const_value.numpy() / 2)
                gain.const_value = halved
        return 1
'''
PLAN = """plan p
device host
model m {{ source = hf("{model}") context = 64 }}
{evaluation}
pipeline c {{
    bucket (tokens = [16], context = [64])
    {late}
}}
deploy m on cpu through c as ort
"""


@pytest.fixture
def plan(plugin, tmp_path):
    def write(late: str, takes: str = "(Level.SEMANTIC, Level.STATIC)", evaluation: bool = True) -> Path:
        if late:
            plugin("coarse", "[edgec.passes]\ncoarsen = coarse:Coarsen\n", {"coarse.py": COARSEN.format(takes=takes)})
        text = f'evaluation {{ text = "{ROOT}/text/heldout.txt"  windows = 1 }}' if evaluation else ""
        path = tmp_path / f"plan{bool(late)}.edge"
        path.write_text(PLAN.format(model=ROOT / "models" / "pycode-qwen3", evaluation=text, late=late))
        return path

    return write


def perplexity(plan: Path, bundle: Path) -> float:
    assert main(["compile", str(plan), "-o", str(bundle), "--quiet"]) == 0
    return json.loads((bundle / "manifest.json").read_text())["measured"]["perplexity"]["m"]


def test_a_change_behind_bucket_counts(plan, tmp_path):
    without = perplexity(plan(""), tmp_path / "without")
    assert perplexity(plan("coarsen ()"), tmp_path / "with") > 1.2 * without


def test_a_change_that_cannot_be_measured_is_refused_by_the_check(plan, golden_error):
    file = plan("coarsen ()", "(Level.STATIC,)")
    with pytest.raises(PlanError) as caught:
        load_plan(file)
    wrong = [found for found in caught.value.diagnostics if found.severity == "error"]
    assert [found.code for found in wrong] == ["E0416"]
    golden_error("E0416", wrong, hide={str(file): "plan.edge"})


def test_nobody_minds_where_nothing_is_measured(plan):
    load_plan(plan("coarsen ()", "(Level.STATIC,)", evaluation=False))
