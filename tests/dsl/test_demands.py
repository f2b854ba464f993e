"""What a line asks for and what a target takes are compared as facts: no target reads a pass's parameters."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from edgec.compiler import registry
from edgec.compiler.diagnostics.diagnostic import EdgecError, PlanError
from edgec.compiler.emit.capabilities import Capabilities, Wording
from edgec.compiler.emit.target import CheckRequest
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.weight_format import WeightFormat
from edgec.compiler.pipeline import demands as demands_module
from edgec.compiler.pipeline.demands import Demands
from edgec.compiler.pipeline.pass_interface import Pass
from edgec.compiler.pipeline.step import Step
from edgec.compiler.plan.parameters import param
from edgec.dsl.checker import check_file
from edgec.passes.bucket import Bucket
from edgec.passes.quantize import Quantize

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "examples" / "models"
STRINGS = re.compile(r"getattr\(step\b|getattr\(\w+\.pass_\b|pass_name ==|== \w+\.pass_name")
PLAN = f"""device snapdragon_8_gen_3
model m {{ source = hf("{MODELS}/pycode-qwen2")  context = 512 }}
pipeline p {{
  quantize (weights = int4, activations = uint16)
  bucket (tokens = [1, 64], context = [512])
}}
calibration {{ text = "{ROOT}/examples/text/*.txt"  samples = 1  length = 64 }}
deploy m on npu through p as qnn
"""


def test_passes_and_targets_do_not_talk_in_strings() -> None:
    """`compiler/registry.py` may; `edgec inspect` prints every parameter of every pass, by `parameters`."""
    lines = [
        f"{path.relative_to(ROOT)}:{number}"
        for layer in ("compiler", "dsl", "passes", "targets")
        for path in sorted((ROOT / layer).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if STRINGS.search(line) and "parameters(type(" not in line
    ]
    assert lines == []
    assert STRINGS.search('if step.pass_name == "quantize":')
    assert STRINGS.search('getattr(step.pass_, "block", None)')


@dataclass(frozen=True)
class Blocks(Pass):
    """A third party's pass whose parameters are called as those of `quantize`, and mean something else."""

    name: ClassVar[str] = "blocks"
    leaves: ClassVar[Level | None] = None

    block: int = param(7, doc="decoder blocks to look at")
    weights: str = param("all", doc="which")
    activations: str = param("relu", doc="which function to look for")
    symmetric: bool = param(False, doc="both sides")
    tokens: tuple[int, ...] = param((5,), doc="what to print")
    device: str = param("npu", doc="where it was measured")

    def run(self, module, scope) -> int:
        return 0


@pytest.mark.parametrize("target", ["qnn", "mnn", "ort"])
def test_a_third_partys_parameters_are_not_judged(tmp_path: Path, target: str) -> None:
    (tmp_path / "plan.edge").write_text(PLAN)
    plan, _, _ = check_file(tmp_path / "plan.edge")
    assert plan is not None
    deploy = replace(plan.deploys[0], target=target)
    steps = plan.steps(deploy) if target == "qnn" else ()
    strange = Step("blocks", Blocks(), None, (), deploy.span)
    cls, wording = registry.find_target(target), Wording(registry.capabilities)

    def said(steps: tuple[Step, ...]) -> list:
        request = CheckRequest(plan, deploy, steps, plan.devices[0], None)
        return [*cls().check(request), *cls.capabilities.takes(target, strange.demands, wording)]

    assert said((strange, *steps)) == said(steps)


def test_quantize_says_its_formats() -> None:
    (one,) = Quantize(weights="int4", block=64, activations="uint8").demands().weights
    assert (one.bits, one.block, one.scales) == (4, 64, "two_level")
    auto = Quantize(weights="auto", bits=(3, 8), blocks=(16, 32), method="gptq").demands()
    assert [(f.bits, f.block) for f in auto.weights] == [(3, 16), (3, 32), (8, 16), (8, 32)]
    assert (auto.calibration, auto.torch) == ("method = gptq", "weights = auto")
    assert Quantize(weights="int4", method="mse").demands().calibration is None
    plain = Quantize(weights="int4").demands()
    assert plain == Demands(weights=(WeightFormat(4, 32, True),), better=plain.better)
    assert "gptq" in (plain.better or "")
    assert Quantize(weights="int8").demands().better is None


def test_help_names_the_installed_targets_that_take_it() -> None:
    def told(**installed: Capabilities) -> str:
        ours = Capabilities(frozenset({"cpu"}))
        (found,) = ours.takes("ours", Demands(activations="uint16"), Wording(lambda: installed))
        return found.help or ""

    takes = Capabilities(frozenset({"npu"}), activations=("uint16",))
    assert told(a=takes, b=Capabilities(frozenset({"cpu"}))).startswith("`as a` takes uint16 activations; ")
    assert told(a=takes, c=takes).startswith("`as a` and `as c` take uint16 activations; ")
    assert told().startswith("no installed target takes uint16 activations; ")


def test_a_part_goes_to_a_target_that_says_so(monkeypatch: pytest.MonkeyPatch, golden_error) -> None:
    assert registry.part_target("qnn", "npu").name == "qnn"
    assert registry.part_target("qnn", "cpu").name == "ort"
    alone = {name: cls for name, cls in registry.targets().items() if name != "ort"}
    monkeypatch.setattr(registry, "targets", lambda: alone)
    with pytest.raises(EdgecError) as caught:
        registry.part_target("qnn", "cpu")
    golden_error("E0505", caught.value)


def test_a_cache_type_brings_its_pass(tmp_path: Path) -> None:
    (tmp_path / "plan.edge").write_text(PLAN)
    plan, _, _ = check_file(tmp_path / "plan.edge")
    assert plan is not None
    (step,) = registry.cache_steps("uint8", plan.deploys[0].span)
    assert step.demands.cache == "uint8"
    assert registry.cache_steps("fp16", plan.deploys[0].span) == []
    assert registry.cache_types() == ["uint4", "uint8"]


def test_check_tells_a_bucket_beyond_the_context_and_torch_that_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan.edge").write_text(PLAN.replace("context = [512]", "context = [512, 1024]"))
    monkeypatch.setattr(demands_module, "find_spec", lambda _name: None)
    plan, found, _ = check_file(tmp_path / "plan.edge")
    assert plan is None
    assert [(d.code, d.at.span.line) for d in found if d.at and d.severity == "error"] == [("E0461", 4), ("E0408", 5)]
    with pytest.raises(PlanError, match="1024 positions"):
        Bucket(tokens=(1,), context=(1024,)).run(_module(), _scope())


def _module():
    from edgec.compiler.sources.hf.load_hf import load_hf

    return load_hf("m", MODELS / "pycode-qwen2", 512)


def _scope():
    from edgec.compiler.pipeline.pass_interface import Scope

    return Scope()
