"""ONNX files: the numbers before and after loading in ONNX Runtime, names, lazy weights, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.ir.legality.rules import violations
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.onnx_runtime import session
from edgec.compiler.oracle.oracle import run
from edgec.compiler.sources.onnx.load_onnx import load_onnx

CONV_NET = """<ir_version: 4, opset_import: ["" : 9]>
g (float[N,3,8,8] x) => (float[N,?] y, float[N,4,8,8] z)
<float[4] gain = {1,2,3,4}, int64[2] flat = {0,-1}, float[4,3,3,3] w, float[4] s = {1,1,2,2}>
{
  [conv] c = Conv<pads=[1,1,1,1]>(x, w)
  z = BatchNormalization(c, gain, gain, gain, gain)
  r = Clip<min=-1.0, max=1.0>(z)
  soft = Softmax<axis=1>(r)
  up = Upsample<mode="nearest">(soft, s)
  p = Pad<pads=[0,0,1,1,0,0,1,1]>(up)
  part = Slice<starts=[0], ends=[2], axes=[1]>(p)
  m = ReduceMean<axes=[2], keepdims=1>(part)
  q = Squeeze<axes=[2]>(m)
  d = Dropout(q)
  y = Reshape(d, flat)
}"""
MLP = """<ir_version: 7, opset_import: ["" : 11]>
g (float[B,16] x, float[16,300] w) => (float[B,8] y) <float[300,8] w2, float[8] b = {1,2,3,4,5,6,7,8}>
{
  h = MatMul(x, w)
  axes = Constant<value = int64[1] {1}>()
  u = Unsqueeze<axes=[1]>(h)
  v = Squeeze<axes=[1]>(u)
  t = Tanh(v)
  y = Gemm(t, w2, b)
}"""
BRANCHES = """<ir_version: 8, opset_import: ["" : 13]>
g (float[2,3] x, bool c) => (float[2,3] y)
{
  y = If (c) <
    then_branch = a () => (float[2,3] p) { k = Constant<value = float[1] {2.0}>() p = Mul(x, k) },
    else_branch = b () => (float[2,3] q) { q = Neg(x) }
  >
}"""
FUNCTION = """<ir_version: 8, opset_import: ["" : 18, "mine" : 1]>
g (float[2,3] x) => (float[2,3] y) { h = mine.twice(x)  y = mine.twice(h) }
<domain: "mine", opset_import: ["" : 18]>
twice (a) => (b) { b = Add(a, a) }"""
INT4 = """<ir_version: 10, opset_import: ["" : 21]>
g (float[2,64] x) => (float[2,8] y) <int4[64,8] w, float[2,8] s>
{ d = DequantizeLinear<axis=0, block_size=32>(w, s)  y = MatMul(x, d) }"""
RNG = np.random.default_rng(0)


def parse(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    """The model in `text`; what it declares without a value takes the arrays given."""
    graph = (proto := onnx.parser.parse_model(text)).graph
    for value in [value for value in graph.value_info if value.name in weights]:
        kind = value.type.tensor_type
        dims = [dim.dim_value for dim in kind.shape.dim]
        graph.initializer.append(onnx.helper.make_tensor(value.name, kind.elem_type, dims, weights[value.name]))
        graph.value_info.remove(value)
    return proto


def save(proto: onnx.ModelProto, folder: Path, external: bool = False) -> Path:
    file = folder / "m.onnx"
    if external:
        ir.save(ir.from_proto(proto), file, external_data="m.data", size_threshold_bytes=64)
    else:
        file.write_bytes(proto.SerializeToString())
    return file


def load(file: Path) -> Module:
    module = load_onnx("m", file, 0)
    assert violations(module) == []
    return module


def compare(file: Path, feeds: dict[str, np.ndarray]) -> Module:
    """Load `file`; the outputs of the module equal those of ONNX Runtime on the file itself."""
    opened = session(str(file))
    names = [output.name for output in opened.get_outputs()]
    expected = dict(zip(names, opened.run(names, feeds), strict=True))
    module = load(file)
    found = run(module.main, feeds)
    assert list(found) == names
    for name in names:
        # batch norms are folded into the convolutions before them: another order of the same sums
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)
    return module


def test_an_old_convolutional_net(tmp_path: Path) -> None:
    file = save(parse(CONV_NET, w=RNG.normal(size=108).astype("f4")), tmp_path)
    module = compare(file, {"x": RNG.normal(size=(2, 3, 8, 8)).astype("f4")})
    assert module.main.opset_imports == {"": 24}
    node = module.node("conv")
    assert node is not None
    assert str(node.outputs[0].shape) == "[N,4,8,8]"
    assert not list(module.nodes("Constant"))


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_an_mlp(external: bool, tmp_path: Path) -> None:
    weights = {"w2": RNG.normal(size=2400).astype("f4")}
    file = save(parse(MLP, **weights), tmp_path, external)
    x, w = RNG.normal(size=(5, 16)).astype("f4"), RNG.normal(size=(16, 300)).astype("f4")
    module = compare(file, {"x": x, "w": w})
    assert [node.name for node in module.nodes()] == ["MatMul_0", "Unsqueeze_0", "Squeeze_0", "Tanh_0", "Gemm_0"]
    weight = module.constant(module.main.graph.initializers["w2"])
    assert weight is not None
    np.testing.assert_array_equal(weight.rows(7, 9).reshape(-1), weights["w2"][56:72])


def test_both_branches_of_an_if(tmp_path: Path) -> None:
    file = save(parse(BRANCHES), tmp_path)
    for c in (True, False):
        compare(file, {"x": RNG.normal(size=(2, 3)).astype("f4"), "c": np.array(c)})


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    module = compare(save(parse(FUNCTION), tmp_path), {"x": RNG.normal(size=(2, 3)).astype("f4")})
    assert [node.op_type for node in module.nodes()] == ["Add", "Add"]


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_int4_blocks_survive(external: bool, tmp_path: Path) -> None:
    q = RNG.integers(-8, 8, 512)
    file = save(parse(INT4, w=q, s=RNG.random(16).astype("f4")), tmp_path, external)
    module = compare(file, {"x": RNG.normal(size=(2, 64)).astype("f4")})
    weight = module.constant(module.main.graph.initializers["w"])
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy().astype(int).reshape(-1), q)


def test_int4_rows_that_share_a_byte(tmp_path: Path) -> None:
    text = INT4.replace("64,8", "64,7").replace("2,8", "2,7")
    file = save(parse(text, w=RNG.integers(-8, 8, 448), s=RNG.random(14).astype("f4")), tmp_path, True)
    compare(file, {"x": RNG.normal(size=(2, 64)).astype("f4")})


def test_the_long_name_of_onnx_own_domain(tmp_path: Path) -> None:
    proto = parse(BRANCHES)
    proto.opset_import[0].domain = "ai.onnx"
    for node in (*proto.graph.node, *proto.graph.node[0].attribute[0].g.node):
        node.domain = "ai.onnx"
    module = load(save(proto, tmp_path))
    x = RNG.normal(size=(2, 3)).astype("f4")
    np.testing.assert_array_equal(run(module.main, {"x": x, "c": np.array(True)})["y"], 2 * x)


def test_a_newer_opset_comes_down(tmp_path: Path) -> None:
    text = '<ir_version: 12, opset_import: ["" : 25]> g (float[2,3] x) => (float[3,2] y) { y = Transpose(x) }'
    module = load(save(parse(text), tmp_path))
    x = RNG.normal(size=(2, 3)).astype("f4")
    np.testing.assert_array_equal(run(module.main, {"x": x})["y"], x.T)


def test_an_initializer_that_is_also_an_input_is_a_constant(tmp_path: Path) -> None:
    """What IR version 3 demands of every weight."""
    proto = parse('<ir_version: 3, opset_import: ["" : 8]> g (float[2] x) => (float[2] y) { y = Add(x, w) }')
    proto.graph.initializer.append(onnx.helper.make_tensor("w", 1, [2], [1.0, 2.0]))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [2]))
    module = load(save(proto, tmp_path))
    assert [value.name for value in module.main.graph.inputs] == ["x"]
    np.testing.assert_array_equal(run(module.main, {"x": np.zeros(2, "f4")})["y"], [1, 2])


def test_names(tmp_path: Path) -> None:
    """Repeated names become unique, unnamed nodes count per type and dodge names that are taken."""
    text = """<ir_version: 8, opset_import: ["" : 24]> g (float[2] x) => (float[2] y) {
      [same] a = Relu(x)  [same] b = Relu(a)  c = Relu(b)  [Relu_1] d = Neg(c)  e = Relu(d)  f = Neg(e)
      [same_1] y = Abs(f)
    }"""
    module = load(save(parse(text), tmp_path))
    names = [node.name for node in module.nodes()]
    assert names == ["same", "same_2", "Relu_0", "Relu_1", "Relu_2", "Neg_0", "same_1"]


def test_nodes_out_of_order_are_sorted(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu(t)  t = Neg(x) }'
    module = load(save(parse(text), tmp_path))
    assert [node.op_type for node in module.nodes()] == ["Neg", "Relu"]


def test_external_weights_are_read_on_demand(tmp_path: Path) -> None:
    file = save(parse(MLP, w2=RNG.normal(size=2400).astype("f4")), tmp_path, True)
    module = load(file)
    data = tmp_path / "m.data"
    data.write_bytes(bytes(data.stat().st_size))
    weight = module.constant(module.main.graph.initializers["w2"])
    assert weight is not None
    assert not weight.numpy().any()


def refused(file: Path) -> tuple[str, str]:
    with pytest.raises(PlanError) as caught:
        load_onnx("m", file, 0)
    (diagnostic,) = caught.value.diagnostics
    return diagnostic.code, diagnostic.message


def model(body: str, opset: int = 17, domains: str = "", head: str = "float[2,4] x, float[2,4] w") -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : {opset}{domains}]> g ({head}) => (float[M,N] y) {{ {body} }}'
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize(
    ("proto", "code", "says"),
    [
        (model("y = Relu(x)", opset=99), "E0373", "is of opset 99; known are 1 to"),
        (
            model("y = CumProd(x, a)", 26, head="float[2,4] x, int64 a"),
            "E0373",
            "the op CumProd came with a later opset",
        ),
        (model("[n] y = Foo(x)"), "E0374", "node `n` in"),
        (model("y = Swish(x)"), "E0374", "the node that computes `y`"),
        (model("y = Swish(x)"), "E0374", "is a Swish, which ONNX opset 17 does not have"),
        (model("y = mine.Gelu(x)", domains=', "mine" : 1'), "E0374", "mine::Gelu"),
        (model("y = RandomNormalLike(x)"), "E0376", "the node that computes `y` (RandomNormalLike) of"),
        (model("[a] r = Bernoulli(x)  [b] s = Bernoulli(r)  y = Add(r, s)"), "E0376", "`b` (Bernoulli) of"),
        (model("y = Relu(none)"), "E0375", "the node that computes `y` reads `none`, which nothing makes"),
        (model("y = Relu(x)  y = Relu(x)"), "E0375", "`y` is made more than once"),
        (model("z = Relu(x)"), "E0375", "nothing makes its output `y`"),
        (model("y = Relu(t)  t = Neg(y)"), "E0375", "cycle"),
        (model("y = Relu(x, w)"), "E0375", "node(Relu_0) with schema(::Relu:14) has input size 2"),
        (model("y = MatMul(x, w)"), "E0375", "`MatMul_0`: incompatible dimensions for matrix multiplication"),
    ],
)
def test_model_faults(proto: onnx.ModelProto, code: str, says: str, tmp_path: Path) -> None:
    found, message = refused(save(proto, tmp_path))
    assert (found, says in message) == (code, True), message
    assert str(tmp_path) in message
    assert "\n" not in message
    assert "/onnx/" not in message.replace(str(tmp_path), "")


def test_an_unknown_op_inside_a_branch(tmp_path: Path) -> None:
    code, message = refused(save(parse(BRANCHES.replace("Neg(x)", "Nag(x)")), tmp_path))
    assert (code, "`q`" in message) == ("E0374", True)


def test_no_opset(tmp_path: Path) -> None:
    proto = model("y = Relu(x)")
    del proto.opset_import[:]
    assert refused(save(proto, tmp_path))[0] == "E0373"


def test_training_and_sparse_models(tmp_path: Path) -> None:
    proto = model("y = Relu(x)")
    proto.training_info.add()
    assert refused(save(proto, tmp_path))[0] == "E0376"
    proto = model("y = Relu(x)")
    proto.graph.sparse_initializer.add().values.name = "s"
    assert refused(save(proto, tmp_path)) == ("E0376", f"`{tmp_path / 'm.onnx'}` has the sparse initializer `s`")


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"PK\x03\x04 not a model", b"\x08\x07", b"[" * 1000])
def test_no_model(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert refused(tmp_path / "m.onnx")[0] == "E0371"


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    file = save(parse(MLP, w2=np.zeros(2400, "f4")), tmp_path)
    file.write_bytes(file.read_bytes().replace(b"MatMul", b"Mat\xff\xffl"))
    code, message = refused(file)
    assert (code, "not UTF-8" in message) == ("E0371", True)


def test_a_function_of_another_opset(tmp_path: Path) -> None:
    """Inlined as it stands it could mean something else (Softmax changed at 13)."""
    older = FUNCTION.replace('"mine", opset_import: ["" : 18]', '"mine", opset_import: ["" : 11]')
    code, message = refused(save(parse(older), tmp_path))
    assert (code, "mine::twice" in message) == ("E0375", True)


def test_no_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "m.onnx") == ("E0370", f"cannot read `{tmp_path / 'm.onnx'}`: no such file or directory")
    assert refused(tmp_path)[0] == "E0370"


def test_too_large(tmp_path: Path) -> None:
    with (tmp_path / "m.onnx").open("wb") as file:
        file.truncate(1 << 31)
    code, message = refused(tmp_path / "m.onnx")
    assert (code, "2.0 GiB, beyond the 2 GiB" in message) == ("E0371", True)


def test_a_cut_file_never_loads_as_something_else(tmp_path: Path) -> None:
    file = save(parse(CONV_NET, w=RNG.normal(size=108).astype("f4")), tmp_path)
    raw = file.read_bytes()
    for length in range(0, len(raw) - 1, 41):
        file.write_bytes(raw[:length])
        assert refused(file)[0] in ("E0371", "E0373", "E0374", "E0375")


def entry(proto: onnx.ModelProto, **fields: object) -> None:
    """Change the external-data fields of the model's `w2`."""
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == "w2"]
    kept = {item.key: item.value for item in tensor.external_data} | {k: str(v) for k, v in fields.items()}
    del tensor.external_data[:]
    for key, value in kept.items():
        tensor.external_data.add(key=key, value=value)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (lambda p: entry(p, location="gone.data"), "gone.data`, which does not exist"),
        (lambda p: entry(p, location="/etc/passwd"), "outside the model's folder"),
        (lambda p: entry(p, location="../m.data"), "outside the model's folder"),
        (lambda p: entry(p, location="..\\m.data"), "outside the model's folder"),
        (lambda p: entry(p, offset=1 << 40), "cut short"),
        (lambda p: entry(p, length=8), "8 bytes for float[300, 8], which takes 9600"),
    ],
)
def test_external_data_faults(fault: Callable[[Any], None], says: str, tmp_path: Path) -> None:
    file = save(parse(MLP, w2=np.zeros(2400, "f4")), tmp_path, True)
    proto = onnx.load(file, load_external_data=False)
    fault(proto)
    file.write_bytes(proto.SerializeToString())
    code, message = refused(file)
    assert (code, says in message) == ("E0372", True), message
    assert "`w2`" in message


def test_external_data_cut_short(tmp_path: Path) -> None:
    file = save(parse(MLP, w2=np.zeros(2400, "f4")), tmp_path, True)
    with (tmp_path / "m.data").open("rb+") as data:
        data.truncate(9599)
    assert refused(file) == ("E0372", f"`{tmp_path / 'm.data'}` is cut short: tensor `w2` ends beyond it")


def external_gone(folder: Path) -> Path:
    file = save(parse(MLP, w2=np.zeros(2400, "f4")), folder, True)
    (folder / "m.data").unlink()
    return file


def lfs_pointer(folder: Path) -> Path:
    (folder / "m.onnx").write_text("version https://git-lfs.github.com/spec/v1")
    return folder / "m.onnx"


def training(folder: Path) -> Path:
    proto = model("y = Relu(x)")
    proto.training_info.add()
    return save(proto, folder)


GOLDEN: dict[str, Callable[[Path], Path]] = {
    "E0370": lambda folder: folder / "m.onnx",
    "E0371": lfs_pointer,
    "E0372": external_gone,
    "E0373": lambda folder: save(model("y = CumProd(x, a)", 26, head="float[2,4] x, int64 a"), folder),
    "E0374": lambda folder: save(model("y = mine.Gelu(x)", domains=', "mine" : 1'), folder),
    "E0375": lambda folder: save(model("y = MatMul(x, w)"), folder),
    "E0376": training,
}


@pytest.mark.parametrize("code", GOLDEN)
def test_golden(code: str, tmp_path: Path, golden_error: Callable[..., None]) -> None:
    file = GOLDEN[code](tmp_path)
    with pytest.raises(PlanError) as caught:
        load_onnx("m", file, 0)
    golden_error(code, caught.value, hide={str(tmp_path): "models"})
