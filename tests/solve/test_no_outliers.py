"""A model without outliers loses nothing by having `shadow` in its pipeline."""

from __future__ import annotations

import numpy as np
from edgec.compiler.ir.annotations import SHADOW
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.module import Module
from edgec.compiler.oracle.oracle import DecoderOracle
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.passes.quantize import Quantize
from edgec.passes.shadow import Shadow

from .conftest import ROOT
from .test_shadow import TEXT, scope


def in_8_bits() -> Module:
    module = load_hf("m", ROOT / "examples" / "models" / "pycode-qwen2", 256)
    Quantize(weights="int8", block="channel", activations="uint8").run(module, scope())
    module.level = Level.COMPRESSED
    return module


def test_no_loss_and_hardly_a_shadow() -> None:
    plain, module = in_8_bits(), in_8_bits()
    told = scope()
    Shadow().run(module, told)
    exact = load_hf("m", ROOT / "examples" / "models" / "pycode-qwen2", 256)
    errors = []
    for at in (2000, 9000, 15000):
        ids = np.frombuffer(TEXT.read_bytes()[at : at + 96], np.uint8).astype(np.int64)
        wanted = DecoderOracle(exact).forward(ids)
        errors.append([float(np.linalg.norm(DecoderOracle(one).forward(ids) - wanted)) for one in (plain, module)])
    before, after = np.sum(errors, axis=0)
    assert after <= 1.02 * before, (before, after)
    rows = told.tables[0].rows
    assert sum(row[-1] == "kept" for row in rows) <= len(rows) / 2
    assert sum(SHADOW.get(node) == "cpu" for node in module.main.graph) < 60
