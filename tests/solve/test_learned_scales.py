"""rotate (learned = true): outputs do not change, and 8 bits hold what they could not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.ir.annotations import ROTATED
from edgec.compiler.ir.module import Module
from edgec.compiler.oracle.oracle import DecoderOracle
from edgec.compiler.pipeline.pass_check import run_and_check
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.passes.quantize import Quantize
from edgec.passes.rotate import Rotate

from .conftest import ROOT
from .test_shadow import CALIBRATION, TEXT, outliers_script, scope


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pycode-qwen2 with outliers in its norms and inside its MLPs, which no rotation reaches."""
    out = tmp_path_factory.mktemp("scales") / "m"
    return outliers_script().make(ROOT / "examples" / "models" / "pycode-qwen2", out, 4, 60.0, 30.0, mlp=4)


def off(module: Module, exact: np.ndarray, ids: np.ndarray) -> float:
    Quantize(weights="int8", block="channel", activations="uint8", ranges="clip").run(module, scope())
    return float(np.linalg.norm(DecoderOracle(module).forward(ids) - exact) / np.linalg.norm(exact))


def test_outputs_stay_and_8_bits_hold_more(inside: Path) -> None:
    ids = np.frombuffer(TEXT.read_bytes()[2000:2064], np.uint8).astype(np.int64)
    plain = load_hf("m", inside, 256)
    exact = DecoderOracle(plain).forward(ids)
    result = run_and_check(Rotate(learned=True), plain, calibration=CALIBRATION)
    learned = result.module
    assert ROTATED.get(learned.main) == ("residual", "values", "learned")
    assert np.abs(DecoderOracle(learned).forward(ids) - exact).max() <= 1e-4 * np.abs(exact).max()
    rotated = plain.clone()
    Rotate().run(rotated, scope())
    assert off(learned, exact, ids) < 0.7 * off(rotated, exact, ids)


def test_it_needs_text(golden_error: Callable[..., None]) -> None:
    del golden_error
    module = load_hf("m", ROOT / "examples" / "models" / "pycode-qwen2", 256)
    with pytest.raises(EdgecError) as raised:
        Rotate(learned=True).run(module, scope(calibration=None))
    assert raised.value.diagnostics[0].code == "E0454"
