"""fuse: one linear in the place of those that read one value, the same numbers behind it, reasons where it does not."""

from __future__ import annotations

import numpy as np
import pytest
from edgec.compiler.ir.annotations import FLOAT_WEIGHT, JOINED
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.weights import as_weight
from edgec.compiler.oracle.oracle import DecoderOracle
from edgec.compiler.pipeline.pass_check import run_and_check
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.fuse import Fuse
from edgec.passes.joining.rewrite import joined_name
from edgec.passes.quantize import Quantize
from edgec.passes.rotate import Rotate

ATTENTION = "layers.0.self_attn"
MLP = "layers.0.mlp"


def names(module: Module) -> list[str]:
    return [linear.name for linear in linears(module)]


def test_q_k_v_and_gate_up_are_one_each(draft: Module) -> None:
    """With biases (pycode-qwen2's q, k and v have them), and the ops behind read what they read before."""
    result = run_and_check(Fuse(), draft)
    assert result.changes == 2 * 5
    expected = [f"{ATTENTION}.qkv_proj", f"{ATTENTION}.o_proj", f"{MLP}.gate_up_proj", f"{MLP}.down_proj"]
    assert [name for name in names(result.module) if name.startswith("layers.0")] == expected
    joined = next(linear for linear in linears(result.module) if linear.name == expected[0])
    assert joined.stored is not None
    rows = JOINED.get(joined.stored)
    assert rows is not None
    assert [name for name, _ in rows] == [f"{ATTENTION}.{part}_proj" for part in "qkv"]
    before = {linear.name: linear.weight() for linear in linears(draft)}
    assert np.array_equal(joined.weight().numpy(), np.concatenate([before[name].numpy() for name, _ in rows]))
    middle = rows[0][1]
    assert np.array_equal(joined.weight().rows(middle - 1, middle + 1)[1], before[rows[1][0]].rows(0, 1)[0])


@pytest.mark.parametrize(
    "format_",
    [
        {"weights": "int8", "block": "channel"},
        {"weights": "int4", "block": 32},
        {"weights": "int4", "block": 32, "symmetric": False},
    ],
)
def test_integers_are_joined_as_they_are(target: Module, format_: dict) -> None:
    module = target.clone()
    Quantize(**format_).run(module, Scope(except_=("lm_head", "embed_tokens")))
    module.level = Level.COMPRESSED
    before = {linear.name: linear for linear in linears(module)}
    result = run_and_check(Fuse(), module)
    joined = next(linear for linear in linears(result.module) if linear.name == f"{MLP}.gate_up_proj")
    parts = [before[f"{MLP}.{part}_proj"] for part in ("gate", "up")]
    assert joined.quant is not None
    assert joined.quant.format == parts[0].quant.format  # type: ignore[union-attr]
    assert np.array_equal(joined.quant.q.numpy(), np.concatenate([part.quant.q.numpy() for part in parts]))  # type: ignore[union-attr]
    floats = FLOAT_WEIGHT.get(joined.quant.q)
    assert floats is not None  # another `quantize` line begins from the float weight
    assert as_weight(floats).dims == joined.shape
    ids = np.arange(3, 40)
    whole, made = DecoderOracle(module).forward(ids), DecoderOracle(result.module).forward(ids)
    assert np.abs(whole - made).max() <= 1e-5 * np.abs(whole).max()


def test_another_format_stays_alone(target: Module) -> None:
    module = target.clone()
    Quantize(weights="int8", block="channel").run(module, Scope(on=("*.k_proj",)))
    module.level = Level.COMPRESSED
    scope = Scope(on=("layers.0.self_attn.*",))
    assert Fuse().run(module, scope) == 2
    assert f"{ATTENTION}.qv_proj" in names(module)
    (skip,) = scope.skips
    assert skip.node == f"{ATTENTION}.k_proj"
    assert skip.reason == f"it differs from `{ATTENTION}.q_proj`, which reads the same, in the format of the weight"


def test_one_alone_is_no_candidate(target: Module) -> None:
    module = target.clone()
    scope = Scope(on=("*.q_proj", "*.o_proj"))
    assert Fuse().run(module, scope) == 0
    assert not scope.skips


def test_a_shared_weight_stays(target: Module) -> None:
    module = target.clone()
    up, gate = (module.node(f"{MLP}.{part}_proj") for part in ("up", "gate"))
    assert up is not None
    assert gate is not None
    up.replace_input_with(1, gate.inputs[1])
    scope = Scope(on=(f"{MLP}.*",))
    assert Fuse().run(module, scope) == 0
    assert {skip.reason for skip in scope.skips} == {"it shares its weight with another op"}


def test_values_are_rotated_before(target: Module, golden_error) -> None:
    module = target.clone()
    Fuse().run(module, Scope())
    with pytest.raises(Exception) as raised:  # noqa: PT011
        Rotate().run(module, Scope())
    golden_error("E0464", raised.value)
    Rotate(values=False).run(module, Scope())


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (["a.q_proj", "a.k_proj", "a.v_proj"], "a.qkv_proj"),
        (["a.gate_proj", "a.up_proj"], "a.gate_up_proj"),
        (["first", "second"], "first_second"),
        (["m.x_in", "m.y_out"], "m.x_in_y_out"),
    ],
)
def test_names(parts: list[str], name: str) -> None:
    assert joined_name(parts) == name
