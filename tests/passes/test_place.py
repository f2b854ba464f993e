"""place writes devices, nothing else; a linear takes its bias along."""

from __future__ import annotations

from edgec.compiler.ir.annotations import DEVICE
from edgec.compiler.ir.module import Module
from edgec.compiler.pipeline.pass_check import run_and_check
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.place import Place


def test_pins_what_matches(draft: Module) -> None:
    result = run_and_check(Place(device="npu"), draft, on=["embed_tokens", "layers.1.mlp.*"])
    placed = {n.name for n in result.module.nodes() if DEVICE.get(n) == "npu"}
    layer = {f"layers.1.mlp.{n}" for n in ("gate_proj", "up_proj", "down_proj", "act", "mul")}
    assert placed == {"embed_tokens", *layer, *(f"{n}.transpose" for n in layer if n.endswith("proj"))}
    assert result.changes == len(placed)


def test_a_linear_takes_its_bias_along(draft: Module) -> None:
    result = run_and_check(Place(device="npu"), draft, on=["layers.0.self_attn.q_proj"])
    placed = {n.name for n in result.module.nodes() if DEVICE.get(n) == "npu"}
    assert placed == {"layers.0.self_attn.q_proj", "layers.0.self_attn.q_proj.bias_add"}


def test_the_last_line_wins(draft: Module) -> None:
    Place(device="cpu").run(draft, Scope())
    assert Place(device="npu").run(draft, Scope(on=("lm_head",), except_=("embed*",))) == 1
    node = draft.node("lm_head")
    assert node is not None
    assert DEVICE.get(node) == "npu"
