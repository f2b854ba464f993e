"""What ONNX Runtime takes, `as ort` takes: sizes, types, ops and statements of a file that only it understands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgec.compiler.bundle.manifest import schema
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.emit.manifest_entries import tensor_entry
from edgec.compiler.emit.target import Emission
from edgec.compiler.ir.module import Module
from edgec.compiler.oracle.probes import Probes
from edgec.compiler.sources.onnx.load_onnx import load_onnx
from onnx import helper

Emit = Callable[..., Emission]
KERNEL = """(float[n,3,h,w_] x, float[8,3,7,7] w) => (float[n,8,a,b] y) { y = Conv(x, w) }"""
EIGHTS = """(float[n,t] x) => (float[m,8] y) { s = Constant<value_ints = [-1, 8]>() y = Reshape(x, s) }"""
ONE_BATCH = """(float[n,8] x, float[5,8] w) => (float[n,8] y) { y = Add(x, w) }"""
CANCELS = """(float[1,16,4,4] x, float[8,16,1,1] w, float[8] b, float[8,1,1] s, float[8,1,1] t) => (float[1,8,4,4] y) {
    c = Conv(x, w, b) d = Mul(c, s) e = Add(d, t) c2 = Conv(x, w, b) d2 = Mul(c2, s) y = Sub(e, d2) }"""
CONTRIB = """(float[2,8] x) => (float[2,8] y) { a = com.microsoft.Gelu(x) y = Softmax<axis = 1>(a) }"""
FLOAT64 = """(double[1,16] x, double[16,8] w) => (double[1,8] y) { y = MatMul(x, w) }"""
WRONG_RANK = """(float[4,8] x, float[8,6] w) => (float[1,n] y) {
    s = Constant<value_ints = [2, 2, 8]>() a = Reshape(x, s) y = MatMul(a, w) }"""
TEXTS = """(string[n] x) => (string[n] y) { y = Identity(x) }"""


def load(folder: Path, body: str, opset: int = 17, scale: float = 1.0) -> Module:
    """The textual graph, its inputs but the first made weights."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>\nagraph {body}'
    return loaded(folder, onnx.parser.parse_model(text), scale)


def loaded(folder: Path, proto: onnx.ModelProto, scale: float = 1.0) -> Module:
    rng = np.random.default_rng(0)
    for value in list(proto.graph.input)[1:]:
        kind = value.type.tensor_type
        array = (1.0 if value.name == "t" else scale) * rng.normal(size=[d.dim_value for d in kind.shape.dim])
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(dtype), value.name))
        proto.graph.input.remove(value)
    onnx.save(proto, folder / "m.onnx")
    return load_onnx("m", folder / "m.onnx", 0)


@pytest.mark.parametrize("body", [KERNEL, EIGHTS, ONE_BATCH, CONTRIB, FLOAT64, WRONG_RANK, TEXTS])
def test_taken_and_run(body: str, emit: Emit, tmp_path: Path) -> None:
    made = emit(load(tmp_path, body, 11 if body is CONTRIB else 17))
    assert not [note for note in made.notes if "not run" in note]


@pytest.mark.parametrize(
    ("body", "sizes"), [(KERNEL, {"n": 8, "h": 8, "w_": 8}), (EIGHTS, {"n": 4, "t": 4}), (ONE_BATCH, {"n": 5})]
)
def test_sizes_are_found_by_trying(body: str, sizes: dict[str, int], tmp_path: Path) -> None:
    assert next(Probes(load(tmp_path, body).main).sizes()) == sizes


def test_what_no_size_was_found_for_is_said(emit: Emit, tmp_path: Path) -> None:
    body = "(float[n,8] x, float[1031,8] w) => (float[m,8] y) { a = Concat<axis = 0>(x, x) b = Sub(a, w) y = Relu(b) }"
    (note,) = emit(load(tmp_path, body)).notes
    assert "was opened and not run: no sizes of `n` were found" in note


def test_a_dimension_of_minus_one_is_open(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }'
    )
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    module = loaded(tmp_path, proto)
    assert [d if isinstance(d, int) else d.value for d in module.main.graph.inputs[0].shape or ()] == [None, 4]
    assert next(Probes(module.main).sizes()) == {"x.0": 4}


def test_a_stated_output_shape_that_is_wrong_or_absent_is_inferred(tmp_path: Path) -> None:
    assert list(load(tmp_path, WRONG_RANK).main.graph.outputs[0].shape or ()) == [2, 2, 6]
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2,8] x) => (float[2,8] y) { y = Relu(x) }'
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    assert list(loaded(tmp_path, proto).main.graph.outputs[0].shape or ()) == [2, 8]


def test_terms_that_cancel_are_held_to_what_rounding_does_to_them(
    emit: Emit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emit(load(tmp_path, CANCELS, scale=1e3))
    monkeypatch.setattr(Probes, "rounding", lambda self, trial: dict.fromkeys(trial.expected, 0.0))
    with pytest.raises(EdgecError) as raised:
        emit(load(tmp_path, CANCELS, scale=1e3))
    assert raised.value.diagnostics[0].code == "E0802"


@pytest.mark.parametrize(("body", "dtype"), [(FLOAT64, "float64"), (TEXTS, "string")])
def test_the_manifest_has_a_word_for_every_type(body: str, dtype: str, tmp_path: Path) -> None:
    entry = tensor_entry(load(tmp_path, body).main.graph.inputs[0])
    assert entry["dtype"] == dtype
    assert dtype in schema()["$defs"]["dtype"]["enum"]
