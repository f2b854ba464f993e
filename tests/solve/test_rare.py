"""Rare outliers: read in each call, as many as are asked, from integers that are mapped; counted and bounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.ir.annotations import SHADOW
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module
from edgec.compiler.oracle.oracle import run
from edgec.compiler.pipeline.pass_check import from_text
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.passes.outliers.clip_search import CALL, STEPS, search
from edgec.passes.outliers.measure import Rounded, _Counting
from edgec.passes.outliers.split import Split, split
from edgec.passes.quantize import Quantize
from edgec.passes.shadow import Shadow
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import ROOT
from .test_shadow import scope, variant  # noqa: F401  (a fixture)


def chance_weight(k: int, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, k)).astype(np.float32)


def linear(k: int, n: int, seed: int, symmetric: bool) -> Module:
    numbers = ", ".join(map(repr, chance_weight(k, n, seed).ravel().tolist()))
    ports = f"(float[B,{k}] x) => (float[B,{n}] y)"
    head = f'<ir_version: 10, opset_import: ["" : 21]> m {ports} <float[{n},{k}] w = {{{numbers}}}>'
    module = from_text(f"{head} {{ t = Transpose<perm=[1,0]>(w)\n y = MatMul(x, t) }}")
    Quantize(weights="int8", block="channel", symmetric=symmetric).run(module, Scope())
    return module


@given(st.data(), st.integers(6, 40), st.integers(1, 12), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_what_is_read_is_exact(data: st.DataObject, k: int, n: int, symmetric: bool, seed: int) -> None:
    """Hot channels and rare ones that no profile has: as long as a call has no more of them than are read."""
    chance = np.random.default_rng(seed)
    before, after = linear(k, n, seed, symmetric), linear(k, n, seed, symmetric)
    rounding = chance_weight(k, n, seed) - next(linears(before)).weight().numpy()
    places = chance.permutation(k)
    hot, most = tuple(sorted(int(i) for i in places[:2])), data.draw(st.integers(1, 3))
    split(after.main.graph, list(linears(after)), Split(-1.0, 1.0, hot, most), "x")
    after.main.graph.sort()
    after.level = Level.COMPRESSED
    assert not violations(after)
    inside = Split(-1.0, 1.0).encoding
    for few in (0, most, most + 1):
        x = chance.uniform(inside.low, inside.high, (5, k)).astype(np.float32)
        beyond = places[2 : 2 + few]
        x[:, list(hot)] *= 30
        x[chance.integers(5, size=few), beyond] = chance.choice([-20.0, 40.0], few).astype(np.float32)
        whole, made = (run(module.main, {"x": x})["y"] for module in (before, after))
        over = x - np.clip(x, inside.low, inside.high)
        whole = whole + over[:, list(hot)] @ rounding[:, list(hot)].T  # hot channels have float rows
        error = np.abs(whole - made).max() / (np.abs(x).max() * np.sqrt(k))
        assert error <= 1e-5 if few <= most else error > 1e-5


def test_the_range_is_narrower_where_rare_channels_are_read() -> None:
    """Every token has one channel of 96, another each time, that is 40 times as large: no hot channels hold them."""
    x = torch.randn(1, 40 * CALL, 96, generator=torch.Generator().manual_seed(0))
    for at in range(0, x.shape[1], CALL):
        x[0, at, (at // CALL) % 96] *= 40
    counting = _Counting(None)  # type: ignore[arg-type]
    counting.widen(x)
    counting.count(x)
    seen, weights = counting.done(), np.ones(96)
    assert seen.calls == 40
    assert seen.largest is not None
    assert seen.largest.shape == (STEPS, 96)
    clipped, read = search(seen, weights, 2, 0.8), search(seen, weights, 2, 0.8, 16)
    assert read.error <= clipped.error
    assert seen.calls_beyond()[-1].max() <= 1


def test_measured_as_it_is_computed() -> None:
    how = Rounded(Split(-1.0, 1.0).encoding, Split(-1.0, 1.0).encoding, (3,), lambda: np.zeros(1), rare=2)
    x = torch.zeros(1, 2 * CALL, 8)
    x[0, 0, :5] = torch.tensor([9.0, 5.0, 7.0, 100.0, 0.5])
    x[0, CALL, 6] = -4.0
    over = how.rest(x)
    assert over[0, 0, 3] == 0  # hot channels are corrected from their own rows
    read = how.read(over)
    assert read[0, 0].tolist() == pytest.approx([8, 0, 6, 0, 0, 0, 0, 0], abs=0.02)
    assert read[0, CALL, 6] == pytest.approx(-3, abs=0.02)


def test_blocks_have_no_rows_to_read(golden_error: Callable[..., None]) -> None:
    module = load_hf("m", ROOT / "examples" / "models" / "pycode-qwen2", 256)
    Quantize(weights="int8", block=32, activations="uint8").run(module, scope())
    with pytest.raises(EdgecError) as raised:
        Shadow(rare="read").run(module, scope())
    golden_error("E0438", raised.value)


def test_rows_are_read_in_the_graph(variant: Path) -> None:  # noqa: F811
    module = load_hf("m", variant, 256)
    Quantize(weights="int8", block="channel", activations="uint8").run(module, scope())
    module.level = Level.COMPRESSED
    told = scope()
    Shadow(rare="read", rare_channels=4).run(module, told)
    assert not violations(module)
    picked = [node for node in module.main.graph if node.op_type == "TopK"]
    assert picked
    assert all(SHADOW.get(node) == "cpu" for node in picked)
    assert any("read" in note for note in told.notes)
