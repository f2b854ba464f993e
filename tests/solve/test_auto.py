"""Mixed precision: the choice is the best within the budget, and a budget that cannot be met says what could."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.weight_format import WeightFormat
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.quantize import Quantize
from edgec.passes.solve.mixed_precision import choose

FORMATS = [WeightFormat(bits, 32, True, "gptq") for bits in (3, 4, 8)]


def stored(shape: tuple[int, int], format_: WeightFormat) -> int:
    return format_.size(*shape)


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_the_best_there_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = {f"l{i}": (int(rng.integers(1, 9)) * 32, 64) for i in range(6)}
    table = {name: {f: float(rng.random() * 4.0**-f.bits) for f in FORMATS} for name in shapes}
    weights = sum(n * k for n, k in shapes.values())
    chosen = choose(table, shapes, 4.6, Scope())
    assert sum(stored(shapes[n], f) for n, f in chosen.items()) <= 4.6 * weights
    every = (dict(zip(shapes, picked, strict=True)) for picked in itertools.product(FORMATS, repeat=6))
    fitting = [p for p in every if sum(stored(shapes[n], f) for n, f in p.items()) <= 4.6 * weights]
    best = min(sum(table[n][f] for n, f in p.items()) for p in fitting)
    assert sum(table[n][f] for n, f in chosen.items()) <= best + 1e-12


def test_bytes_count_scales_and_zeros() -> None:
    assert WeightFormat(4, 32, True).size(64, 128) == 64 * 128 * 4.5
    assert WeightFormat(4, 32, False).size(64, 128) == 64 * (128 * 4.5 + 4 * 4)
    assert WeightFormat(3, None, True).size(64, 128) == 64 * (128 * 3 + 16)
    assert WeightFormat(3, None, True).stored_in(4).size(64, 128) == 64 * (128 * 4 + 16)


def test_the_budget_counts_what_the_target_stores() -> None:
    """Three bits that lie in four save nothing: all linears get four."""
    shapes = {f"l{i}": (64, 64) for i in range(4)}
    table = {name: {f: 4.0**-f.bits * (10.0 if name == "l0" else 1.0) for f in FORMATS} for name in shapes}
    assert {f.bits for f in choose(table, shapes, 4.75, Scope()).values()} == {3, 8}
    assert {f.bits for f in choose(table, shapes, 4.75, Scope(widths={4: 0, 8: 0})).values()} == {4}


def test_what_lies_beside_a_weight_is_counted() -> None:
    """A code book of 2^bits bytes: with one per weight, eight bits for the one that gains are too many by a little."""
    shapes = {f"l{i}": (64, 64) for i in range(4)}
    formats = [WeightFormat(bits, 32, True, "gptq") for bits in (4, 8)]
    table = {name: {f: 4.0**-f.bits * (9.0 if name == "l0" else 1.0) for f in formats} for name in shapes}
    books = {bits: 1 << bits for bits in (4, 8)}
    assert Counter(f.bits for f in choose(table, shapes, 5.5, Scope()).values()) == {4: 3, 8: 1}
    assert Counter(f.bits for f in choose(table, shapes, 5.5, Scope(widths=books)).values()) == {4: 4}
    assert Counter(f.bits for f in choose(table, shapes, 4.5, Scope(widths=books)).values()) == {4: 4}
    assert choose(table, shapes, 5.5 + 240 * 8 / 4**7, Scope(widths=books))["l0"].bits == 8


def test_a_budget_that_cannot_be_met() -> None:
    table = {"layers.0.mlp.up_proj": dict.fromkeys(FORMATS, 1.0)}
    with pytest.raises(PlanError) as raised:
        choose(table, {"layers.0.mlp.up_proj": (64, 64)}, 3.4, Scope())
    assert raised.value.diagnostics[0].code == "E0459"


def test_auto_mixes_within_the_budget(draft: Module, scope: Scope) -> None:
    Quantize(weights="auto", method="gptq", budget=4.5).run(draft, scope)
    found = [linear for linear in linears(draft) if linear.quant is not None]
    formats = {linear.quant.format for linear in found if linear.quant is not None}
    assert len(formats) > 1
    taken = sum(stored(x.shape, x.quant.format) for x in found if x.quant is not None)
    assert taken <= 4.5 * sum(x.shape[0] * x.shape[1] for x in found)
    assert re.match(r"auto: 4\.[45]\d* bits a weight, scales included: \d", scope.notes[0])
    (table,) = scope.tables
    assert table.head == (
        "linear",
        *(f"int{bits} block {block} symmetric" for bits in (3, 4, 8) for block in (16, 32, 128)),
    )
    assert [row[0] for row in table.rows] == [linear.name for linear in found]
    assert [table.head[at] for at in table.marked] == [str(x.quant.format) for x in found if x.quant]
    assert Quantize(weights="auto", method="gptq", budget=4.5).run(draft, scope) == 0


def test_auto_needs_a_calibrated_method() -> None:
    assert Quantize(weights="auto").validate()
    assert not Quantize(weights="auto", method="gptq").validate()
