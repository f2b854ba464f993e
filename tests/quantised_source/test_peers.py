"""What the formats' own libraries pack is read as they unpack it, and packed the same by the writers of these tests.

`packed.safetensors` comes from gptqmodel 7.7.0, AutoAWQ 0.2.9 and compressed-tensors 0.20.0 (`pack_with_peers.py`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.sources.hf.config_file import Config
from edgec.compiler.sources.hf.quantised.integers import float_weight
from edgec.compiler.sources.hf.quantised.parts import quantised_tensor
from edgec.compiler.sources.hf.quantised.read_scheme import read_quantised
from edgec.compiler.sources.hf.safetensors_index import read_header
from safetensors.numpy import load_file

from .make_quantised import Form, Integers, config_of, parts
from .packed_forms import K, N, packed_integers

PACKED = Path(__file__).with_name("packed.safetensors")
CASES = [pytest.param(form, made, id=form.label) for form, made in packed_integers()]


@pytest.mark.parametrize(("form", "made"), CASES)
def test_what_libraries_pack_is_read_as_they_unpack_it(form: Form, made: Integers) -> None:
    stored = {name.removeprefix(f"{form.label}/"): held for name, held in read_header(PACKED).items()}
    stored = {f"up.{name}": held for name, held in stored.items()}
    said = read_quantised(PACKED.parent, Config({"quantization_config": config_of(form)}, PACKED))
    assert said is not None
    scheme = said.scheme_of("up")
    assert scheme is not None
    weight = float_weight("up.weight", quantised_tensor("up", scheme, (N, K), stored))
    np.testing.assert_array_equal(weight.numpy(), made.value)
    unpacked = load_file(PACKED)[f"{form.label}/value"]  # float16, which some of them compute in
    np.testing.assert_allclose(weight.numpy(), unpacked.astype(np.float32), atol=1e-3 * np.abs(made.value).max())


@pytest.mark.parametrize(("form", "made"), CASES)
def test_the_writers_here_pack_as_the_libraries_do(form: Form, made: Integers) -> None:
    theirs = load_file(PACKED)
    for name, array in parts(form, made).items():
        np.testing.assert_array_equal(array, theirs[f"{form.label}/{name}"], err_msg=name)
