"""The kernels in ONNX Runtime beside the product in float64, each kind of processor's by itself."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.ir.bit_planes import from_panels, from_planes, to_panels, to_planes
from edgec.compiler.ir.module import initializer
from edgec.compiler.ir.onnx_runtime import session
from edgec.compiler.ir.ops.lut_dequant import LutDequant
from edgec.compiler.ir.ops.lut_gemv import LutGemv
from edgec.compiler.ir.weights import from_array
from edgec.compiler.kernels.build import library
from hypothesis import given, settings
from hypothesis import strategies as st

KERNELS = ("plain", "avx2", "avx512_bw", "avx512")
BUILT = library()
pytestmark = pytest.mark.skipif(BUILT.path is None, reason=f"no kernels: {BUILT.reason}")


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    """The kernel that sessions take in this test."""
    held = ctypes.CDLL(str(BUILT.path))
    held.lookup_named.restype = ctypes.c_void_p
    if held.lookup_named(request.param.encode()) is None:
        pytest.skip(f"this processor cannot run `{request.param}`")
    monkeypatch.setenv("EDGEC_LOOKUP_KERNEL", request.param)
    return request.param


class Linear:
    """Random integers with scales and zero points, as planes and as a float64 matrix."""

    def __init__(self, seed, outputs, inputs, bits, block, symmetric):
        rng = np.random.default_rng(seed)
        self.bits, self.block, self.outputs = bits, block, outputs
        self.u = rng.integers(0, 1 << bits, (outputs, inputs)).astype(np.uint8)
        self.scale = rng.uniform(0.001, 0.02, (outputs, inputs // block)).astype(np.float16)
        zero = rng.integers(0, 1 << bits, self.scale.shape).astype(np.uint8)
        halves = np.full((1, 1, 1), 1 << bits, np.uint8) if symmetric else to_panels(2 * zero)
        self.held = {"planes": to_planes(self.u, bits), "scale": to_panels(self.scale), "zero": halves}
        middle = float(1 << bits) / 2 if symmetric else np.repeat(zero.astype(np.float64), block, axis=1)
        self.matrix = (self.u - middle) * np.repeat(self.scale.astype(np.float64), block, axis=1)

    def run(self, x, tables, threads=1):
        """The op in ONNX Runtime with the library."""
        kind = ir.TensorType(ir.DataType.FLOAT)
        given, made = ir.Value(name="x", type=kind, shape=ir.Shape(x.shape)), ir.Value(name="y", type=kind)
        model = ir.Model(ir.Graph([given], [made], nodes=[], opset_imports={"": 24}, name="linear"), ir_version=11)
        held = [initializer(model.graph, name, from_array(name, array)) for name, array in self.held.items()]
        words = {"bits": self.bits, "block_size": self.block, "outputs": self.outputs, "tables": tables}
        model.graph.append(LutGemv().node(model, "linear", [given, *held], made, **words))
        opened = session(ir.to_proto(model).SerializeToString(), True, (str(BUILT.path),), threads)
        return opened.run(None, {"x": x})[0]

    def values(self, threads=1):
        """`LutDequant` of the planes in ONNX Runtime with the library."""
        made = ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT))
        model = ir.Model(ir.Graph([], [made], nodes=[], opset_imports={"": 24}, name="weight"), ir_version=11)
        held = [initializer(model.graph, name, from_array(name, array)) for name, array in self.held.items()]
        words = {"bits": self.bits, "block_size": self.block, "outputs": self.outputs}
        model.graph.append(LutDequant().node(model, "weight", held, made, **words))
        return session(ir.to_proto(model).SerializeToString(), True, (str(BUILT.path),), threads).run(None, {})[0]

    def bound(self, x):
        """How far tables of int8 may be off: half a step for each lookup, times the weight of its plane."""
        blocks = x.reshape(*x.shape[:-1], -1, self.block // 4, 4).astype(np.float64)
        step = np.abs(blocks).sum(-1).max(-1) / 127
        return step @ self.scale.astype(np.float64).T * (self.block / 4 * 0.5 * ((1 << self.bits) - 1) / 2)

    def spread(self, x):
        """What an output typically is: the root of the sum of its squared summands, the largest of each token."""
        return np.sqrt(np.square(x.astype(np.float64)) @ np.square(self.matrix).T).max(-1, keepdims=True)


CASES = {
    "seed": st.integers(0, 1 << 30),
    "outputs": st.integers(1, 200),
    "blocks": st.integers(1, 5),
    "bits": st.integers(1, 4),
    "block": st.sampled_from((32, 64, 128)),
    "symmetric": st.booleans(),
    "tokens": st.integers(1, 9),
}


def test_random_cases_are_within_the_bound_of_their_tables(kernel):
    @settings(max_examples=150, deadline=None)
    @given(**CASES)
    def check(seed, outputs, blocks, bits, block, symmetric, tokens):
        linear = Linear(seed, outputs, blocks * block, bits, block, symmetric)
        x = np.random.default_rng(seed + 1).standard_normal((tokens, blocks * block)).astype(np.float32)
        expected = x.astype(np.float64) @ linear.matrix.T
        slack = 1e-6 * np.abs(x).sum() * float(linear.scale.max()) * (1 << bits)  # of float32 sums
        assert (np.abs(linear.run(x, 8) - expected) <= linear.bound(x) + slack).all()
        assert (np.abs(linear.run(x, 32) - expected) <= slack).all()
        assert (np.abs(linear.run(x, 16) - expected) <= 2e-4 * linear.spread(x) + slack).all()

    check()


def test_weights_come_back_exactly(kernel):
    @settings(max_examples=60, deadline=None)
    @given(**{name: CASES[name] for name in CASES if name != "tokens"})
    def check(seed, outputs, blocks, bits, block, symmetric):
        linear = Linear(seed, outputs, blocks * block, bits, block, symmetric)
        assert np.array_equal(linear.values(threads=2), linear.matrix.astype(np.float32).T)
        linear.held["planes"][0, 0, 0, 0, 0] ^= 1
        assert not np.array_equal(linear.values(), linear.matrix.astype(np.float32).T)

    check()


def test_a_result_that_no_cache_holds(kernel):
    linear = Linear(13, 2048, 2112, 2, 32, False)
    assert np.array_equal(linear.values(), linear.matrix.astype(np.float32).T)


def test_more_tokens_than_tables_are_held_for(kernel):
    linear = Linear(1, 70, 64, 2, 32, True)
    x = np.random.default_rng(2).standard_normal((2, 67, 64)).astype(np.float32)
    made = linear.run(x, 32)
    assert made.shape == (2, 67, 70)
    assert np.abs(made - x.astype(np.float64) @ linear.matrix.T).max() < 1e-4


def test_threads_give_the_same_bytes(kernel):
    linear = Linear(3, 1000, 256, 3, 128, False)
    x = np.random.default_rng(4).standard_normal((3, 256)).astype(np.float32)
    assert linear.run(x, 8, threads=1).tobytes() == linear.run(x, 8, threads=3).tobytes()


def test_large_values_do_not_overflow(kernel):
    linear = Linear(5, 64, 128, 4, 128, True)
    linear.u[:] = 15
    linear.held["planes"] = to_planes(linear.u, 4)
    x = np.full((1, 128), 3e4, np.float32)  # every lookup is 127: the largest sum there is
    expected = x.astype(np.float64) @ ((15 - 8.0) * np.repeat(linear.scale.astype(np.float64), 128, axis=1)).T
    assert np.abs(linear.run(x, 8) / expected - 1).max() < 1e-5


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("tables", [8, 16, 32])
def test_what_is_not_finite_stays_so(kernel, value, tables):
    linear = Linear(6, 70, 64, 2, 32, True)
    x = np.zeros((1, 64), np.float32)
    x[0, 40] = value
    assert not np.isfinite(linear.run(x, tables)).any()


def test_zeros_are_zeros(kernel):
    linear = Linear(7, 70, 64, 4, 32, False)
    assert not linear.run(np.zeros((2, 64), np.float32), 8).any()


def test_other_planes_give_other_numbers(kernel):
    linear = Linear(8, 64, 64, 4, 32, True)
    x = np.random.default_rng(9).standard_normal((1, 64)).astype(np.float32)
    expected = x.astype(np.float64) @ linear.matrix.T
    linear.held["planes"][0, 0, 3] ^= 255
    assert (np.abs(linear.run(x, 8) - expected) > linear.bound(x)).any()


@pytest.mark.parametrize(
    ("name", "shape"), [("planes", (1, 2, 4, 4, 32)), ("scale", (1, 1, 64)), ("zero", (1, 3, 64)), ("planes", (0,))]
)
def test_tensors_of_another_shape_are_an_error(kernel, name, shape):
    linear = Linear(10, 64, 64, 4, 32, True)
    linear.held[name] = np.zeros(shape, linear.held[name].dtype)
    with pytest.raises(Exception, match=r"LutGemv|hape"):
        linear.run(np.zeros((1, 64), np.float32), 8)


def test_weights_of_another_shape_are_an_error(kernel):
    linear = Linear(10, 64, 64, 4, 32, True)
    linear.held["planes"] = np.zeros((1, 1, 4, 4, 64), np.uint8)
    with pytest.raises(Exception, match=r"LutGemv|LutDequant"):
        linear.values()


@pytest.mark.parametrize(("bits", "block", "outputs"), [(5, 32, 64), (0, 32, 64), (4, 48, 64), (4, 32, 1 << 40)])
def test_attributes_out_of_range_are_an_error(bits, block, outputs):
    linear = Linear(11, 64, 64, 4, 32, True)
    linear.bits, linear.block, linear.outputs = bits, block, outputs
    with pytest.raises(Exception, match="LutGemv"):
        linear.run(np.zeros((1, 64), np.float32), 8)


def test_a_kernel_that_the_processor_lacks_is_refused(monkeypatch):
    monkeypatch.setenv("EDGEC_LOOKUP_KERNEL", "neon" if os.uname().machine == "x86_64" else "avx512")
    with pytest.raises(Exception, match="cannot run the kernel"):
        Linear(12, 64, 64, 4, 32, True).run(np.zeros((1, 64), np.float32), 8)


@given(st.integers(1, 130), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_planes_and_panels_hold_what_they_were_made_of(outputs, extents, bits, seed):
    rng = np.random.default_rng(seed)
    u = rng.integers(0, 1 << bits, (outputs, extents * 32)).astype(np.uint8)
    planes = to_planes(u, bits)
    assert planes.nbytes == -(-outputs // 64) * 64 * extents * 32 * bits // 8
    assert np.array_equal(from_planes(planes)[:outputs], u)
    assert not from_planes(planes)[outputs:].any()
    scale = rng.random((outputs, extents)).astype(np.float16)
    assert np.array_equal(from_panels(to_panels(scale))[:outputs], scale)
