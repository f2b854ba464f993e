"""run_pipeline: the order of levels, globs, what a pass may break and how it is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import EdgecError, render
from edgec.compiler.ir.annotations import DEVICE
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.weights import from_array
from edgec.compiler.pipeline.pass_interface import Pass, Scope, Tolerance
from edgec.compiler.pipeline.run_steps import PipelineOptions, order_problems, run_pipeline
from edgec.passes.bucket import Bucket
from edgec.passes.lut_gemv import LutGemv
from edgec.passes.place import Place
from edgec.passes.quantize import Quantize


@dataclass(frozen=True)
class Scale(Pass):
    """Multiply the gain of the last norm: by 1 it is exact, otherwise it is a mistake the tests plant."""

    name: ClassVar[str] = "scale"
    by: float = 1.0
    claims: float = 0.0

    @property
    def tolerance(self) -> Tolerance:
        return Tolerance(self.claims)

    def run(self, module: Module, scope: Scope) -> int:
        value = module.main.graph.initializers["norm.weight"]
        assert value.const_value is not None
        value.const_value = from_array("norm.weight", np.asarray(value.const_value.numpy()) * np.float32(self.by))
        return 1


@dataclass(frozen=True)
class Breaks(Pass):
    """Does one forbidden thing."""

    name: ClassVar[str] = "breaks"
    what: str = ""

    def run(self, module: Module, scope: Scope) -> Any:
        graph = module.main.graph
        if self.what == "raises":
            return [].index(3)  # the line the message has to name
        if self.what == "returns":
            return "three"
        if self.what == "output":
            graph.outputs[0].name = "scores"
        if self.what == "order":
            graph.inputs.insert(0, graph.inputs.pop())
        if self.what == "type":
            graph.inputs[0].dtype = ir.DataType.INT64
        if self.what == "name":
            graph[0].name = graph[1].name
        return 1


def failure(module: Module, steps: list, **options: bool) -> EdgecError:
    with pytest.raises(EdgecError) as raised:
        run_pipeline(module, steps, options=PipelineOptions(**options))
    return raised.value


def test_a_whole_pipeline(draft: Module, steps) -> None:
    told: list[str] = []
    lines = steps(
        (Quantize(weights="int4"), None, ("lm_head", "embed_tokens")),
        (Quantize(weights="int8", block="channel"), ("lm_head",)),
        (Place(device="cpu"), ("embed_tokens",)),
        Bucket(tokens=(1, 4), context=(16,)),
    )
    results = run_pipeline(
        draft,
        lines,
        default_device="npu",
        options=PipelineOptions(verify_each=True, time_passes=True, explain_skips=True, print_after=("place",)),
        progress=told.append,
    )
    assert [(r.pass_name, r.changes) for r in results] == [
        ("quantize", 14),
        ("quantize", 1),
        ("place", 1),
        ("bucket", 2),
    ]
    assert results[3].error == dict.fromkeys(results[3].error or (), 0.0)
    assert draft.level == Level.STATIC
    assert {DEVICE.get(n) for n in draft.nodes() if n.name != "embed_tokens"} == {"npu"}
    assert draft.decisions["lm_head"] == "plan.edge:3:3"
    assert draft.decisions["layers.0.mlp.up_proj"] == "plan.edge:2:3"
    assert any("no longer shares its weight" in line for line in told)
    assert any(" s" in line and "place: 1 changes in" in line for line in told)
    printed = next(line for line in told if line.startswith("module `draft` at level placed"))
    assert "embed_tokens  " in printed
    assert "Gather(" in printed
    assert "@cpu" in printed


def test_a_line_that_changes_nothing_says_so(draft: Module, steps) -> None:
    lines = steps((Quantize(weights="int8", block=32), ("*mlp*",)), (LutGemv(when="always"), ("*mlp*",)))
    told: list[str] = []
    results = run_pipeline(draft, lines, progress=told.append)
    expected = "`lut_gemv` changes nothing: its integers have 8 bits, tables serve 1 to 4 (6 of 6)"
    assert results[1].notes == (expected,)
    assert any(line.endswith(expected) for line in told)
    assert not any("changes nothing" in note for note in results[0].notes)


def test_skips_are_told_when_asked_for(draft: Module, steps) -> None:
    told: list[str] = []
    lines = steps(Bucket(tokens=(1, 16), context=(16,)))
    run_pipeline(draft, lines, options=PipelineOptions(explain_skips=True), progress=told.append)
    assert "draft: bucket skipped t16_c16: 16 tokens leave no room for a cache in 16 positions" in told


def test_order(draft: Module, steps, plan_text, golden_error) -> None:
    lines = steps(
        Place(device="cpu"), Quantize(weights="int4"), Bucket(tokens=(1,), context=(16,)), Place(device="npu")
    )
    problems = order_problems(lines)
    assert [(p.code, p.help) for p in problems] == [
        ("E0400", "put `quantize` before `place`"),
        ("E0400", "put `place` before `bucket`"),
    ]
    assert "`place` makes it placed" in render(problems[0], plan_text)
    before = [node.name for node in draft.nodes()]
    error = failure(draft, lines)
    assert [node.name for node in draft.nodes()] == before  # nothing ran
    golden_error("E0400", error, plan_text)


def test_needs_an_earlier_pass(steps) -> None:
    @dataclass(frozen=True)
    class Late(Scale):
        name: ClassVar[str] = "late"
        takes: ClassVar[tuple[Level, ...]] = (Level.STATIC,)

    assert order_problems(steps(Late()))[0].help == "a pass that leaves level `static` has to come before it"
    assert order_problems(steps(Bucket(tokens=(1,), context=(4,)), Late())) == []


@pytest.mark.parametrize(("on", "except_"), [(("lm_haed",), ()), (None, ("lm_haed",)), (("lm_head", "lm_haed"), ())])
def test_a_glob_that_matches_nothing(on, except_, draft: Module, steps, plan_text, golden_error) -> None:
    error = failure(draft, steps((Quantize(weights="int4"), on, except_)))
    assert "there is an op named `lm_head`" in (error.diagnostics[0].help or "")
    golden_error("E0402", error, plan_text)


def test_a_glob_that_matches_only_what_the_pass_cannot_change(draft: Module, steps, plan_text, golden_error) -> None:
    golden_error("E0403", failure(draft, steps((Quantize(weights="int4"), ("norm",)))), plan_text)


def test_a_glob_that_is_fully_excepted_is_no_mistake(draft: Module, steps) -> None:
    results = run_pipeline(draft, steps((Quantize(weights="int4"), ("lm_head",), ("lm_*",))))
    assert results[0].changes == 0


@pytest.mark.parametrize(("by", "claims", "passes"), [(1.0, 0.0, True), (1.001, 0.0, False), (1.001, 0.01, True)])
def test_verify_each(by: float, claims: float, passes: bool, draft: Module, steps, plan_text, golden_error) -> None:
    lines = steps(Scale(by, claims))
    run_pipeline(draft.clone(), lines)  # without it nobody looks
    if passes:
        results = run_pipeline(draft, lines, options=PipelineOptions(verify_each=True))
        assert (results[0].error or {})["logits"] == pytest.approx(by - 1, abs=1e-5)
    else:
        golden_error("E0401", failure(draft, lines, verify_each=True), plan_text)


def test_a_mistake_of_a_thousand_is_seen_within_any_tolerance(draft: Module, steps) -> None:
    error = failure(draft, steps(Scale(1000.0, 1.0)), verify_each=True)
    assert error.diagnostics[0].code == "E0401"


def test_an_exception_names_the_pass_and_its_line(draft: Module, steps, plan_text) -> None:
    error = failure(draft, steps(Breaks("raises")))
    assert (error.exit_code, error.diagnostics[0].code) == (4, "E0404")
    line = next(
        n
        for n, text in enumerate(Path(__file__).read_text().splitlines(), start=1)
        if "the line the message has to name" in text
    )
    assert f"pass `breaks` failed at test_pipeline.py:{line}: ValueError" in error.diagnostics[0].message
    assert isinstance(error.__cause__, ValueError)  # `--debug` has the trace
    assert "plan.edge:2:3" in render(error.diagnostics[0], plan_text)


def test_an_exception_is_told_without_a_trace(draft: Module, steps, plan_text, golden_error) -> None:
    error = failure(draft, steps(Breaks("raises")))
    number = error.diagnostics[0].message.split("test_pipeline.py:")[1].split(":")[0]
    golden_error("E0404", error, plan_text, hide={f"test_pipeline.py:{number}": "test_pipeline.py:N"})


def test_what_is_no_count(draft: Module, steps, plan_text, golden_error) -> None:
    golden_error("E0406", failure(draft, steps(Breaks("returns"))), plan_text)


@pytest.mark.parametrize(
    ("what", "told"), [("output", "with scores"), ("order", "in another order"), ("type", "int64")]
)
def test_a_changed_interface(what: str, told: str, draft: Module, steps, plan_text, golden_error) -> None:
    error = failure(draft, steps(Breaks(what)))
    assert told in error.diagnostics[0].message
    if what == "output":
        golden_error("E0405", error, plan_text)


def test_an_illegal_result(draft: Module, steps) -> None:
    error = failure(draft, steps(Breaks("name")))
    assert (error.diagnostics[0].code, error.diagnostics[0].at is not None) == ("E0410", True)


def test_mistakes_of_the_user_pass_through(draft: Module, steps) -> None:
    assert failure(draft, steps(Bucket(tokens=(1,), context=(1024,)))).diagnostics[0].code == "E0408"
