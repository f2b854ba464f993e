"""Products specialised for the shapes of a model, beside those that take any."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest
from edgec.compiler.kernels.build import SCRIPT, SOURCES, build_into, library
from edgec.compiler.kernels.shapes import HEADER, MOST, Shape, header, read_shapes, worth_specialising

from .direct_calls import Product

SHAPES = (Shape(640, 2, 32), Shape(768, 3, 64))
needs_kernels = pytest.mark.skipif(library().path is None, reason="no kernels")


def product(path, name, shape, tokens):
    """100 outputs of random weights by the kernel `name`, tables of int8; None where this processor lacks it."""
    held = Product.of(path, name, shape, 100, tokens)
    if held is None:
        return None
    held.make_tables()
    held.multiply()
    return held.y


@needs_kernels
@pytest.mark.parametrize("name", ["avx2", "avx512_bw", "avx512"])
def test_a_specialised_product_is_the_general_one(name):
    general, special = library().path, library(SHAPES).path
    assert general != special
    for shape in SHAPES:
        for tokens in (1, 2, 3, 7):
            made, expected = (product(path, name, shape, tokens) for path in (special, general))
            if made is None or expected is None:
                pytest.skip(f"this processor cannot run `{name}`")
            assert made.any()
            assert np.array_equal(made, expected)


@needs_kernels
def test_the_specialised_one_is_what_runs(tmp_path):
    build_into(tmp_path, binary=False, shapes=SHAPES)
    text = (tmp_path / "lookup.h").read_text()
    wrong = text.replace("panels(w, t, tokens, from, to, y, bits, block / 32, inputs);", "(void)w; y[0] = 77;")
    assert wrong != text
    (tmp_path / "lookup.h").write_text(wrong)
    subprocess.run([str(tmp_path / SCRIPT)], check=True, capture_output=True)
    made = product(tmp_path / "libedgec_lookup.so", "avx2", SHAPES[0], 4)
    if made is None:
        pytest.skip("this processor cannot run `avx2`")
    assert made[0, 0] == 77
    other = product(tmp_path / "libedgec_lookup.so", "avx2", Shape(672, 2, 32), 4)
    assert other is not None
    assert other[0, 0] != 77


def test_the_largest_shapes_are_worth_it():
    linears = [(Shape(512 + 32 * i, 2, 32), 64 + i) for i in range(MOST + 2)] + [(Shape(256, 2, 32), 1 << 20)]
    found = worth_specialising(linears)
    assert len(found) == MOST
    assert found[0] == Shape(576, 2, 32)
    assert Shape(256, 2, 32) not in found


def test_the_header_names_each():
    assert re.findall(r"X\(of, (.*?)\)", header(SHAPES)) == ["640, 2, 32", "768, 3, 64"]
    assert "X(of" not in header(())
    assert f'"{HEADER}"' in (SOURCES / "lookup.h").read_text()


@pytest.mark.parametrize(
    "found",
    [
        None,
        3,
        [[640, 5, 32]],
        [[640, 2, 48]],
        [[650, 2, 32]],
        [[640, 2]],
        [["640", 2, 32]],
        [[-64, 2, 32]],
        [[True, 1, 32]],
    ],
)
def test_what_a_manifest_says_is_not_believed(found):
    assert read_shapes(found) == ()


def test_what_a_manifest_says_is_read():
    assert read_shapes([list(shape) for shape in reversed(SHAPES)]) == SHAPES
