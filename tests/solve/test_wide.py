"""`wide`: which linears lose most by 8 bits is what the logits say, and those get 16 bits, up to a share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.calibration.windows import windows
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.ir.activation_encodings import encoding_of
from edgec.compiler.ir.annotations import ACTIVATIONS
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module
from edgec.compiler.oracle.oracle import DecoderOracle
from edgec.compiler.pipeline.pass_check import from_text
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.passes.quantization import activation_pairs
from edgec.passes.quantization.rounding_losses import losses
from edgec.passes.quantization.widen import choose
from edgec.passes.quantize import Quantize
from edgec.passes.shadow import Shadow
from hypothesis import given
from hypothesis import strategies as st

from .conftest import SPAN
from .test_shadow import CALIBRATION, scope, variant  # noqa: F401  (a fixture)

SIZES = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.tuples(st.floats(0, 1), st.integers(1, 99)))


def in_8_bits(folder: Path, told: Scope | None = None, **settings: float) -> Module:
    module = load_hf("m", folder, 256)
    Quantize(weights="int8", block="channel", activations="uint8", **settings).run(module, told or scope())  # type: ignore[arg-type]
    module.level = Level.COMPRESSED
    return module


def divergence(exact: Module, other: Module, ids: np.ndarray) -> float:
    """Mean KL of the next token's distribution."""

    def logs(module: Module, window: np.ndarray) -> np.ndarray:
        x = DecoderOracle(module).forward(window).astype(np.float64)
        x -= x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    found = []
    for window in ids:
        p, q = logs(exact, window), logs(other, window)
        found.append((np.exp(p) * (p - q)).sum(-1).mean())
    return float(np.mean(found))


def wide_ones(module: Module) -> set[str]:
    return {linear.name for linear in linears(module) if ACTIVATIONS.get(linear.node) == "uint16"}


@given(SIZES, st.floats(0, 1))
def test_the_chosen_fit_the_share(rows: dict[str, tuple[float, int]], share: float) -> None:
    lost, sizes = {name: row[0] for name, row in rows.items()}, {name: row[1] for name, row in rows.items()}
    made = choose(lost, sizes, share)
    assert sum(sizes[name] for name in made) <= share * sum(sizes.values()) + 1e-9
    if share == 1:
        assert sum(lost.values()) - sum(lost[name] for name in made) <= 1e-4


def test_the_sum_of_the_losses_is_the_divergence(variant: Path) -> None:  # noqa: F811
    """Of the model in 8 bits from the one whose integers have none, on the windows that were measured."""
    exact, rough = load_hf("m", variant, 256), in_8_bits(variant)
    Quantize(weights="int8", block="channel").run(exact, scope())
    ids = windows(CALIBRATION, exact)[:4]
    activation_pairs.take_out(rough)
    seen = activation_pairs.observe(rough, scope())
    found = losses(rough, ids, activation_pairs.sides(rough, seen, scope()), lambda _: None)
    estimate, measured = sum(found.values()), divergence(exact, in_8_bits(variant), ids)
    assert measured > 0.01  # outliers, so that there is something to be right about
    assert 0.5 < estimate / measured < 2
    assert min(found.values()) > 0


def test_those_that_lose_most_have_16_bits(variant: Path) -> None:  # noqa: F811
    told = scope()
    module = in_8_bits(variant, told, wide=0.3)
    assert not violations(module)
    wide = wide_ones(module)
    assert 0 < len(wide) < 14
    sizes = {one.name: one.shape[0] * one.shape[1] for one in linears(module) if one.name.startswith("layers.")}
    assert sum(sizes[name] for name in wide) <= 0.3 * sum(sizes.values())
    for linear in linears(module):  # on both sides
        if linear.name in sizes:
            sides = [linear.node.inputs[0].producer(), next(iter(linear.node.outputs[0].uses())).node]  # type: ignore[union-attr]
            types = {found.dtype for node in sides if node is not None and (found := encoding_of(node)) is not None}
            assert types == {"uint16" if linear.name in wide else "uint8"}
    assert "bits on average" in told.notes[-1]
    assert {row[0] for row in told.tables[-1].rows if row[-1] == "16"} == wide
    assert Quantize(weights="int8", block="channel", activations="uint8", wide=0.3).run(module, scope()) == 0
    exact, ids = load_hf("m", variant, 256), windows(CALIBRATION, module)[4:6]
    narrow = in_8_bits(variant)
    rows = told.tables[-1].rows[::-1]
    least = choose({row[0]: sizes[row[0]] / (1 + at) for at, row in enumerate(rows)}, sizes, 0.4)
    least = [name for name in least if name not in wide]  # as many weights or more
    Quantize(weights="int8", block="channel", activations="uint16").run(narrow, scope(*least))
    better, other = divergence(exact, module, ids), divergence(exact, narrow, ids)
    assert better < 0.7 * other, (better, other)


def test_a_later_line_keeps_what_was_chosen(variant: Path) -> None:  # noqa: F811
    module = in_8_bits(variant, wide=0.3)
    wide = wide_ones(module)
    Quantize(weights="int8", block="channel").run(module, Scope(("lm_head",), (), SPAN, CALIBRATION))
    assert wide_ones(module) == wide
    everything = in_8_bits(variant, wide=1.0)
    assert wide <= wide_ones(everything)


def test_check_sees_both_types(variant: Path) -> None:  # noqa: F811
    module = load_hf("m", variant, 256)
    dry = Scope(None, ("lm_head", "embed_tokens"), SPAN, CALIBRATION, dry=True)
    Quantize(weights="int8", block="channel", activations="uint8", wide=0.3).run(module, dry)
    assert {ACTIVATIONS.get(one.node) for one in linears(module) if "layers." in one.name} == {"uint8", "uint16"}


def test_a_shadow_leaves_the_wide_ones_alone(variant: Path) -> None:  # noqa: F811
    """Also where all that its line selects are wide: in a check nobody knows which they will be."""
    module = in_8_bits(variant, wide=0.1)
    wide = wide_ones(module)
    told = scope()
    Shadow(keep_layers=0.0).run(module, told)
    assert {skip.node for skip in told.skips} == wide
    assert all("need no shadow" in skip.reason for skip in told.skips)
    clipped = {node.name for node in module.main.graph if node.op_type == "Clip"}
    assert len(clipped) > 0
    whole = in_8_bits(variant, wide=1.0)
    on = scope(*sorted(wide))
    before = len(list(whole.main.graph))
    Shadow().run(whole, on)
    assert len(list(whole.main.graph)) == before
    assert len(on.skips) == len(wide)


def test_a_plain_graph_has_no_next_token() -> None:
    head = '<ir_version: 10, opset_import: ["" : 21]> g (float[2,2] x) => (float[2,2] y)'
    module = from_text(f"{head} <float[2,2] w = {{1, 2, 3, 4}}> {{ y = MatMul(x, w) }}")
    with pytest.raises(EdgecError) as raised:
        Quantize(weights="int8", block="channel", activations="uint8", wide=0.3).run(module, scope())
    assert raised.value.diagnostics[0].code == "E0460"
    assert "is no decoder" in raised.value.diagnostics[0].message
