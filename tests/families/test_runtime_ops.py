"""Decoders written in ONNX Runtime's own ops are the decoders of their folders; integers stay as they are stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.onnx_runtime import session
from edgec.compiler.oracle.rebuilt import prove_rebuilt
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.sources.onnx.onnx_source import OnnxSource
from edgec.passes.quantize import Quantize

from .conftest import write_random
from .written import Integers, Writer

CONTEXT = 64
_LINEARS = {  # of a layer, by what the file calls them
    "attn/qkv_proj/MatMul": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn/o_proj/MatMul": ("self_attn.o_proj",),
    "mlp/up_proj/MatMul": ("mlp.up_proj",),
}


def written(folder: Path, file: Path, op: str = "GroupQueryAttention", integers: Integers = "") -> Writer:
    writer = Writer(folder, CONTEXT, op, integers)
    onnx.save(writer.model(), file)
    return writer


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral-window"])
def test_grouped_attention_is_the_decoder_of_the_folder(
    kind: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = folder_of(kind)
    written(folder, tmp_path / "model.onnx")
    module, theirs = OnnxSource().load("m", tmp_path / "model.onnx", CONTEXT), load_hf("m", folder, CONTEXT)
    assert [node.name for node in module.nodes()] == [node.name for node in theirs.nodes()]
    prove_rebuilt(module)
    for name, value in theirs.main.graph.initializers.items():
        held = module.main.graph.initializers[name].const_value
        assert held is not None
        assert value.const_value is not None
        assert np.array_equal(held.numpy(), value.const_value.numpy()), name


def test_attention_with_a_mask_and_caches_of_its_own(tmp_path: Path) -> None:
    folder = write_random("qwen2", tmp_path, {"num_key_value_heads": 4})
    written(folder, tmp_path / "model.onnx", "MultiHeadAttention")
    module = OnnxSource().load("m", tmp_path / "model.onnx", CONTEXT)
    assert module.arch is not None
    assert module.arch == load_hf("m", folder, CONTEXT).arch
    prove_rebuilt(module)


def test_attention_of_onnx(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    written(folder_of("llama"), tmp_path / "model.onnx", "Attention")
    module = OnnxSource().load("m", tmp_path / "model.onnx", CONTEXT)
    theirs = load_hf("m", folder_of("llama"), CONTEXT)
    assert [node.name for node in module.nodes()] == [node.name for node in theirs.nodes()]
    prove_rebuilt(module)


@pytest.mark.parametrize("integers", ["nbits", "nbits zero points", "qdq"])
def test_integers_are_kept_bit_for_bit(integers: Integers, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    writer = written(folder_of("llama"), tmp_path / "model.onnx", integers=integers)
    module = OnnxSource().load("m", tmp_path / "model.onnx", CONTEXT)
    prove_rebuilt(module)
    Quantize(method="keep").run(module, Scope(except_=("embed_tokens",)))
    found = {linear.name: linear for linear in linears(module)}
    for stored, names in _LINEARS.items():
        uses = [found[f"layers.1.{name}"] for name in names]
        q = np.concatenate([use.quant.q.numpy() for use in uses if use.quant is not None])
        assert np.array_equal(q.astype(np.uint8), writer.q[f"/model/layers.1/{stored}"].astype(np.uint8))
        floats = np.concatenate([use.weight().numpy() for use in uses])
        assert np.array_equal(floats, writer.floats[f"/model/layers.1/{stored}"])


def test_integers_of_another_order_say_so(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    proto = Writer(folder_of("llama"), CONTEXT, "GroupQueryAttention", "nbits").model()
    node = next(one for one in proto.graph.node if one.name == "/model/layers.1/mlp/down_proj/MatMul")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(96, np.int32), "order"))
    node.input.extend(["", "order"])
    onnx.save(proto, tmp_path / "model.onnx")
    outline = OnnxSource().with_context(CONTEXT).outline(tmp_path / "model.onnx")
    assert outline.arch is None
    assert "`g_idx`" in outline.warnings[0].message
    assert "/model/layers.1/mlp/down_proj/MatMul" in outline.warnings[0].message


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"softcap": 30.0}, "`softcap` 30.0"),
        ({"rotary_interleaved": 1}, "`rotary_interleaved` 1"),
        ({"smooth_softmax": 1}, "`smooth_softmax` 1"),
    ],
)
def test_attention_that_edgec_does_not_build_names_the_node(
    change: dict[str, float], why: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    proto = Writer(folder_of("llama"), CONTEXT, "GroupQueryAttention").model()
    node = next(one for one in proto.graph.node if one.op_type == "GroupQueryAttention")
    name, value = next(iter(change.items()))
    kept = [one for one in node.attribute if one.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
    onnx.save(proto, tmp_path / "model.onnx")
    warning = OnnxSource().with_context(CONTEXT).outline(tmp_path / "model.onnx").warnings[0]
    assert why in warning.message
    assert "/model/layers.0/attn/GroupQueryAttention" in warning.message


def test_without_a_context_such_a_file_is_a_graph(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    written(folder_of("llama"), tmp_path / "model.onnx")
    module = OnnxSource().load("m", tmp_path / "model.onnx", 0)
    kinds = {node.op_type for node in module.nodes()}
    assert {"RMSNormalization", "SkipSimplifiedLayerNormalization", "GroupQueryAttention"} <= kinds
    from edgec.compiler.oracle.oracle import open_session

    feeds = {"input_ids": np.array([[3, 4]]), "attention_mask": np.ones((1, 2), np.int64)}
    for layer in range(2):
        for part in ("key", "value"):
            feeds[f"past_key_values.{layer}.{part}"] = np.zeros((1, 2, 0, 16), np.float32)
    theirs = session(str(tmp_path / "model.onnx")).run(["logits"], feeds)[0]
    ours = open_session(module.main).run(["logits"], feeds)[0]
    assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() < 1e-4
