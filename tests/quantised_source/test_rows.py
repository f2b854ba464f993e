"""Weights of quantised checkpoints are the floats that their integers stand for, whichever rows are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.ir.stored_integers import stored_integers
from edgec.compiler.sources.hf.load_hf import read_weights
from edgec.compiler.sources.hf.read_decoder_arch import read_arch

from .make_quantised import Form, variants, write_quantised

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
FOLDER = MODELS / "pycode-qwen2"


@pytest.mark.parametrize("form", variants(), ids=lambda form: form.label)
def test_every_row_is_what_its_integers_stand_for(tmp_path: Path, form: Form) -> None:
    expected = write_quantised(FOLDER, tmp_path, form)
    weights = read_weights(read_arch(tmp_path), tmp_path)
    assert weights.keys() == expected.keys()
    quantised = 0
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight.numpy(), expected[name])
        if (stored := stored_integers(weight)) is None:
            continue
        quantised += 1
        n = weight.dims[0]
        for start, stop in ((0, 1), (7, 40), (n - 3, n)):  # words, runs of 32 and heads are cut through
            np.testing.assert_array_equal(weight.rows(start, stop), expected[name][start:stop])
        assert stored.ordered != form.act_order
        if stored.q is None or stored.scale is None:
            continue
        q = stored.q.numpy().astype(np.float32)
        group = np.arange(weight.dims[1]) // stored.block
        if stored.zero_point is not None:
            q -= stored.zero_point.numpy().astype(np.float32)[:, group]
        np.testing.assert_array_equal(q * stored.scale.numpy()[:, group], expected[name])
    assert quantised == 14
