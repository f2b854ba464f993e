"""The ort target on whole decoders and parts: numbers, files, determinism, and what it notices when it goes wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.ir.levels import Level
from edgec.compiler.ir.linears import Linear, linears
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.packing import pack_rows
from edgec.compiler.oracle import oracle
from edgec.compiler.oracle.compare import random_feeds, relative_error
from edgec.compiler.pipeline.pass_check import from_text
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.bucket import Bucket
from edgec.passes.quantize import Quantize
from edgec.targets.ort import OrtTarget, lower, pack
from edgec.targets.ort import emit as emit_module
from edgec.targets.ort.session import OrtGraph


def quantised(module: Module, **options: object) -> Module:
    Quantize(**{"weights": "int4", **options}).run(module, Scope())  # type: ignore[arg-type]
    module.level = Level.COMPRESSED
    return module


@pytest.mark.parametrize("format_", ["matmulnbits", "dequantize"])
@pytest.mark.parametrize("buckets", [False, True])
def test_decoder(format_: str, buckets: bool, draft: Module, emit, tmp_path: Path) -> None:
    quantised(draft)
    if buckets:
        Bucket(tokens=(1, 4), context=(16, 48)).run(draft, Scope())
        draft.level = Level.STATIC
    emission = emit(draft, format_)
    part = emission.parts["draft.cpu0"]
    assert set(part["graphs"]) == set(draft.graphs)
    for key, model in draft.graphs.items():
        feeds = random_feeds(model.graph, draft.arch, seed=3)
        expected = oracle.run(model, feeds)
        made = OrtTarget().open_graph(tmp_path, part, key).run(feeds)
        assert expected.keys() == made.keys()
        assert max(relative_error(expected[name], made[name]) for name in expected) < 2e-5
    assert sorted(path.suffix for path in (tmp_path / "draft").iterdir()) == sorted(
        [".data", *[".onnx"] * len(draft.graphs)]
    )


def test_buckets_share_the_data_file(draft: Module, emit, tmp_path: Path) -> None:
    quantised(draft)
    emit(draft, folder=tmp_path / "one")
    Bucket(tokens=(1, 4, 8), context=(16, 48)).run(draft, Scope())
    draft.level = Level.STATIC
    emit(draft, folder=tmp_path / "six")
    one, six = ((tmp_path / name / "draft" / "ort.data").stat().st_size for name in ("one", "six"))
    assert one == six


def test_manifest_entry(draft: Module, emit) -> None:
    quantised(draft)
    emission = emit(draft)
    part = emission.parts["draft.cpu0"]
    graph = part["graphs"]["main"]
    assert (part["file"], graph["file"]) == ("draft/cpu0.onnx", "draft/cpu0.onnx")
    by_name = {tensor["name"]: tensor for tensor in graph["inputs"]}
    assert by_name["input_ids"] == {"name": "input_ids", "dtype": "int32", "shape": ["B", "S"], "source": "feed"}
    assert by_name["past_key_1_in"]["source"] == "kv"
    assert graph["outputs"][0] == {"name": "logits", "dtype": "float32", "shape": ["B", "S", 2048]}
    assert emission.kv["layout"]["key"] == ["batch", "kv_heads", "position", "head_dim"]
    assert part["details"]["optimisation"] == "all"


def test_the_same_bytes_twice(draft: Module, emit, tmp_path: Path) -> None:
    quantised(draft)
    for name in ("a", "b"):
        emit(draft, folder=tmp_path / name)
    a, b = (
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / name / "draft").iterdir()}
        for name in ("a", "b")
    )
    assert a == b


def test_standard_operators_only_when_asked(draft: Module, emit, tmp_path: Path) -> None:
    emit(quantised(draft), "dequantize")
    model = onnx.load(tmp_path / "draft" / "cpu0.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    onnx.checker.check_model(str(tmp_path / "draft" / "cpu0.onnx"))


def test_every_linear_is_packed(draft: Module, emit, tmp_path: Path) -> None:
    emit(quantised(draft))
    model = ir.load(tmp_path / "draft" / "cpu0.onnx")
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("MatMulNBits") == 15
    assert kinds.count("GatherBlockQuantized") == 1
    assert "DequantizeLinear" not in kinds
    assert "Transpose" in kinds  # those of attention; the weights' are gone
    assert kinds.count("Transpose") == 4 * 2


def test_float_models_are_emitted_as_they_are(draft: Module, emit, tmp_path: Path) -> None:
    emission = emit(draft)
    feeds = random_feeds(draft.main.graph, draft.arch)
    made = OrtTarget().open_graph(tmp_path, emission.parts["draft.cpu0"], "main").run(feeds)
    assert relative_error(oracle.run(draft.main, feeds)["logits"], made["logits"]) < 2e-5


def test_convolutions_keep_dequantize_linear(emit, tmp_path: Path) -> None:
    values = ", ".join(str(i % 13 - 6) for i in range(144))
    module = from_text(f"""<ir_version: 10, opset_import: ["" : 21]>
    m (float[1,4,6,6] x) => (float[1,4,4,4] y) <float[4,4,3,3] w = {{{values}}}> {{ y = Conv(x, w) }}""")
    emission = emit(quantised(module, weights="int8", block="channel"))
    assert emission.notes == ["`Conv_0` keeps DequantizeLinear: a convolution has no op of this kind"]


@pytest.mark.parametrize("what", ["weights", "scales", "op", "float"])
def test_read_back_sees(what: str, draft: Module, emit, monkeypatch: pytest.MonkeyPatch, golden_error) -> None:
    """A byte that differs from what the module says, in any kind of constant."""
    quantised(draft)
    true = emit_module.save_graphs

    def spoil(models, directory: Path, name: str, **order: bool):
        paths = true(models, directory, name, **order)
        path = paths["cpu0"]
        if what == "op":
            path.write_bytes(path.read_bytes().replace(b"Swish", b"Gelu_"))
            return paths
        stored = ir.load(path).graph.initializers
        key = {
            "weights": "layers.1.mlp.up_proj.weight.packed",
            "scales": "layers.1.mlp.up_proj.weight.scales",
            "float": "layers.0.self_attn.q_proj.bias",
        }[what]
        tensor = stored[key].const_value
        raw = tensor.tobytes()
        file = path.with_name("ort.data") if isinstance(tensor, ir.ExternalTensor) else path
        data = bytearray(file.read_bytes())
        at = data.index(raw) + 5
        data[at] ^= 16
        file.write_bytes(data)
        return paths

    monkeypatch.setattr(emit_module, "save_graphs", spoil)
    with pytest.raises(EdgecError) as raised:
        emit(draft)
    assert raised.value.exit_code == 4
    if what == "weights":
        golden_error("E0801", raised.value)


def test_a_packing_mistake_is_seen(draft: Module, emit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nibbles the wrong way round."""
    monkeypatch.setattr(pack, "pack_rows", lambda values, bits, _order: pack_rows(values, bits, "big"))
    with pytest.raises(EdgecError, match="integers of `embed_tokens` differ"):
        emit(quantised(draft))


def test_wrong_numbers_are_seen(draft: Module, emit, monkeypatch: pytest.MonkeyPatch, golden_error) -> None:
    """The file is as it was written, but what was written is not the module: one linear's scales are negated."""
    quantised(draft, block=32)
    true = lower.OrtLowering._replace

    def replaced(self: lower.OrtLowering, graph: ir.Graph, linear: Linear) -> None:
        true(self, graph, linear)
        node = next((n for n in graph if n.name == "lm_head" and n.op_type == "MatMulNBits"), None)
        if node is not None:
            turned = ir.node("Neg", [node.inputs[2]], name="spoil")
            turned.outputs[0].name = "spoil.out"
            graph.insert_before(node, turned)
            node.replace_input_with(2, turned.outputs[0])

    monkeypatch.setattr(lower.OrtLowering, "_replace", replaced)
    monkeypatch.setattr(emit_module, "read_back", lambda *_: None)
    with pytest.raises(EdgecError) as raised:
        emit(draft)
    number = raised.value.diagnostics[0].message.split("`cpu0.onnx` ")[1].split(" ")[0]
    golden_error("E0802", raised.value, hide={number: "N"})


def test_a_file_the_engine_refuses(tmp_path: Path, golden_error) -> None:
    (tmp_path / "cpu0.onnx").write_bytes(b"no model")
    with pytest.raises(EdgecError) as raised:
        OrtGraph(tmp_path / "cpu0.onnx", "all")
    message = raised.value.diagnostics[0].message
    golden_error("E0803", raised.value, hide={message.split("refuses `cpu0.onnx`: ")[1]: "(its own words)"})


def test_a_run_the_engine_refuses(draft: Module, emit, tmp_path: Path) -> None:
    session = OrtTarget().open_graph(tmp_path, emit(draft).parts["draft.cpu0"], "main")
    feeds = random_feeds(draft.main.graph, draft.arch)
    with pytest.raises(EdgecError, match="ONNX Runtime fails in"):
        session.run({**feeds, "input_ids": feeds["input_ids"].astype(np.float64)})
    with pytest.raises(EdgecError, match="wants attention_mask"):
        session.run({k: v for k, v in feeds.items() if k != "attention_mask"})


def test_a_weight_that_is_not_finite_is_named(draft: Module, emit) -> None:
    from edgec.compiler.ir.annotations import Transform
    from edgec.compiler.ir.weights import derive

    value = draft.main.graph.initializers["layers.1.mlp.up_proj.weight"]
    true = value.const_value
    assert true is not None

    def rows(a: int, b: int) -> np.ndarray:
        made = np.array(true.rows(a, b))
        made[:, 3] = np.nan
        return made

    value.const_value = derive(true.name, true.dtype, true.dims, rows, true, Transform.CAST, "spoiled")
    with pytest.raises(EdgecError, match=r"`layers\.1\.mlp\.up_proj\.weight` holds NaN in row 0"):
        emit(quantised(draft))


def test_packed_integers_are_the_modules(one_weight: Callable[..., Module]) -> None:
    """By hand, for one row: low nibble first, stored as q + 8."""
    linear = next(linears(one_weight("linear", 1, 16, weights="int4", block=16)))
    assert linear.quant is not None
    q = linear.quant.q.numpy().astype(int)[0] + 8
    stored = pack.packed("w", linear.quant).numpy()
    assert stored.shape == (1, 1, 8)
    assert stored[0, 0].tolist() == [q[i] + 16 * q[i + 1] for i in range(0, 16, 2)]


@pytest.mark.parametrize("model", ["draft", "target"])
def test_int8_compute_stays_close(model: str, request: pytest.FixtureRequest, emit, tmp_path: Path) -> None:
    """A few per cent of the largest logit, and not the float32 kernel by accident."""
    module = quantised(request.getfixturevalue(model))
    part = emit(module, compute="int8").parts[f"{model}.cpu0"]
    feeds = random_feeds(module.main.graph, module.arch, seed=3)
    made = OrtTarget().open_graph(tmp_path, part, "main").run(feeds)
    error = relative_error(oracle.run(module.main, feeds)["logits"], made["logits"])
    assert 1e-4 < error < 0.05
    assert part["details"]["compute"] == "int8"


def test_int8_compute_needs_matmulnbits(tmp_path: Path) -> None:
    from edgec.compiler.driver import load_plan

    model = Path(__file__).resolve().parents[2] / "examples" / "models" / "pycode-qwen2"
    plan = tmp_path / "plan.edge"
    plan.write_text(
        f'plan p\ndevice host\nmodel m {{ source = hf("{model}") context = 64 }}\n'
        "deploy m on cpu as ort { format = dequantize  compute = int8 }\n"
    )
    with pytest.raises(EdgecError, match="no effect without `format = matmulnbits`"):
        load_plan(plan)


def test_a_block_of_equal_weights_keeps_its_minimum() -> None:
    """A scale of zero has no zero point: the block gets a scale that its integers are lost in."""
    import types

    from edgec.compiler.ir.weights import from_array
    from edgec.targets.ort import pack

    q = from_array("q", np.full((2, 32), 7, ir.DataType.UINT4.numpy()))
    scale = from_array("s", np.array([[0.0], [0.5]], np.float32))
    minimum = from_array("m", np.array([[-0.25], [-3.0]], np.float32))
    quant = types.SimpleNamespace(
        q=q, scale=scale, minimum=minimum, zero_point=None, block=32, bits=4, format=types.SimpleNamespace(bits=4)
    )
    zero = pack.zero_points("w", quant)  # pyright: ignore[reportArgumentType]
    assert zero is not None
    made = (7.0 - zero.rows(0, 2).astype(np.float64)) * pack.scales("w", quant).rows(0, 2)  # pyright: ignore
    assert made.ravel().tolist() == pytest.approx([-0.25, 0.5])
