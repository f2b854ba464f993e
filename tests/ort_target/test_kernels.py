"""ONNX Runtime's MatMulNBits and GatherBlockQuantized, as we write them, against the dequantised product in float64."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.ir.linears import linears
from edgec.targets.ort import OrtTarget

FORMATS = [
    {"weights": weights, "block": block, "symmetric": symmetric}
    for weights in ("int2", "int3", "int4", "int8")
    for block in (16, 32, 64, 128, "channel")
    for symmetric in (True, False)
]
STORED = {"int2": 2, "int3": 4, "int4": 4, "int8": 8}
SHAPES = [(24, 128), (1, 256), (33, 384), (200, 1024)]
LOOKUPS = [(40, 128), (7, 256), (300, 384)]
UNEVEN = [(24, 40), (5, 24), (17, 200), (9, 136), (3, 8)]  # K that few blocks divide


def cases(shapes: list[tuple[int, int]]) -> list[tuple[tuple[int, int], dict]]:
    """Every shape in every format whose block divides it; every third of these but for EDGEC_NIGHTLY=1.

    Formats are no multiple of three, so that each format meets one shape or two, and each shape a third of the formats.
    """
    found = [(s, f) for s in shapes for f in FORMATS if isinstance(f["block"], str) or s[1] % f["block"] == 0]
    return found if os.environ.get("EDGEC_NIGHTLY") else found[::3]


def name(value: object) -> str:
    return " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)


def check(
    module, emit, tmp_path: Path, tokens: tuple[int, ...] = (1, 2, 7, 64), rtol: float = 2e-6, compute: str = "float32"
) -> None:
    emission = emit(module, compute=compute)
    part = next(iter(emission.parts.values()))
    linear = next(linears(module))
    w = linear.weight().numpy().astype(np.float64)
    session = OrtTarget().open_graph(tmp_path, part, "main")
    rng = np.random.default_rng(1)
    for count in tokens:
        x, expected = feed(linear.kind, module, w, count, rng)
        made = next(iter(session.run({"x": x}).values()))
        allowed = rtol * np.sqrt(w.shape[1]) * np.abs(expected).max()
        if compute == "int8":  # x in steps of max|x| / 127: K independent errors, six deviations of their sum
            allowed = 6 * np.sqrt(w.shape[1] / 12) * np.sqrt((w**2).mean(axis=1).max()) * np.abs(x).max() / 127
        assert np.abs(made - expected).max() <= allowed
    assert emission.notes == []


def feed(kind: str, module, w: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    if kind == "gather":
        x = rng.integers(0, len(w), count)
        return x, w[x] @ w.T if module.main.graph[-1].op_type == "MatMul" else w[x]
    x = rng.standard_normal((count, w.shape[1])).astype(np.float32)
    bias = module.main.graph.initializers.get("b")
    return x, x.astype(np.float64) @ w.T + (0 if bias is None else bias.const_value.numpy())


@pytest.mark.parametrize(("shape", "format_"), cases(SHAPES), ids=name)
def test_linear(shape: tuple[int, int], format_: dict, one_weight, emit, tmp_path: Path) -> None:
    check(one_weight("linear", *shape, **format_), emit, tmp_path)


@pytest.mark.parametrize(("shape", "format_"), cases(LOOKUPS), ids=name)
def test_embedding(shape: tuple[int, int], format_: dict, one_weight, emit, tmp_path: Path) -> None:
    check(one_weight("embedding", *shape, **format_), emit, tmp_path, rtol=1e-7)


@pytest.mark.parametrize("format_", FORMATS, ids=name)
def test_tied_head(format_: dict, one_weight, emit, tmp_path: Path) -> None:
    """Both ops, the bytes once: integers, and float32 scales for each block of up to 128."""
    check(one_weight("tied", 40, 128, **format_), emit, tmp_path)
    data = (tmp_path / "m" / "ort.data").stat().st_size
    assert data <= 40 * 128 * STORED[format_["weights"]] // 8 + 8192


@pytest.mark.parametrize("format_", FORMATS[::5], ids=name)
def test_gemm(format_: dict, one_weight, emit, tmp_path: Path) -> None:
    check(one_weight("gemm", 24, 128, **format_), emit, tmp_path)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("weights", ["int2", "int3", "int4", "int8"])
@pytest.mark.parametrize("shape", UNEVEN, ids=str)
def test_per_channel_with_an_uneven_row(
    shape: tuple[int, int], weights: str, symmetric: bool, one_weight, emit, tmp_path: Path
) -> None:
    """The last block of each row is filled up; what it is filled with must not count."""
    module = one_weight("linear", *shape, weights=weights, block="channel", symmetric=symmetric)
    check(module, emit, tmp_path)


def test_an_embedding_with_an_uneven_row_stays_standard(one_weight, emit) -> None:
    emission = emit(one_weight("embedding", 24, 40, weights="int8", block="channel"))
    assert emission.notes == ["`embed` keeps DequantizeLinear: no block of 16 or more divides its rows of 40"]
    assert emission.parts["m.cpu0"]["details"]["optimisation"] == "none"


@pytest.mark.parametrize(("shape", "format_"), cases([*SHAPES, *UNEVEN]), ids=name)
def test_linear_in_int8(shape: tuple[int, int], format_: dict, one_weight, emit, tmp_path: Path) -> None:
    """Activations are rounded to int8 as they are read; nothing else differs."""
    check(one_weight("linear", *shape, **format_), emit, tmp_path, compute="int8")
