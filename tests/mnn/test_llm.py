"""MNN-LLM bundles against the oracle on the same integers: families, formats, embeddings, cache, refusals."""

from __future__ import annotations

import itertools
import json
import shutil

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.diagnostics.diagnostic import EngineError, PlanError
from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import initializer
from edgec.compiler.ir.weights import from_array
from edgec.compiler.oracle.oracle import DecoderOracle
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.bucket import Bucket
from edgec.targets.mnn.decoder.emit_llm import compare, emit_llm
from edgec.targets.mnn.file.read_back import check_linears, inspect
from edgec.targets.mnn.file.shipped import shipped_weights
from edgec.targets.mnn.run.engine import MnnLanguageModel

from .conftest import HEAD, quantized

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SHAPES = {
    "llama": {"model_type": "llama", "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3},
    "llama biases": {
        "model_type": "llama",
        "hidden_size": 40,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "llama llama3": {
        "model_type": "llama",
        "hidden_size": 96,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64},
    },
    "qwen2 yarn": {
        "model_type": "qwen2",
        "hidden_size": 60,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 14,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    },
    "qwen3": {
        "model_type": "qwen3",
        "hidden_size": 56,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 16,
    },
    "qwen3 odd": {
        "model_type": "qwen3",
        "hidden_size": 28,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "head_dim": 6,
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
}


def run_both(module, folder, ids, **settings):
    """Logits of the bundle and of the oracle, fed in the same uneven pieces."""
    cuts = [0, 20, 21, len(ids) - 3, len(ids)]
    pieces = [ids[a:b] for a, b in itertools.pairwise(cuts)]
    model = MnnLanguageModel(folder, module.arch.vocab, module.context, "MNN", settings)
    try:
        got = np.concatenate([model.forward(piece) for piece in pieces])
        assert model.length == len(ids)
        model.rollback(15)
        np.testing.assert_allclose(model.forward(ids[15:20]), got[15:20], rtol=0, atol=1e-4)
        model.rollback(0)
        np.testing.assert_array_equal(model.forward(ids[:20]), got[:20])
    finally:
        model.close()
    oracle = DecoderOracle(module)
    return got, np.concatenate([oracle.forward(piece) for piece in pieces])


def assert_shipped(module, folder):
    """What `verify` reads from the bundle's files is what the module's linears multiply by."""
    shipped = shipped_weights(folder / "config.json")
    for linear in linears(module):
        held, rows = shipped[linear.name], linear.shape[0]
        assert held.dims == linear.shape
        for start, stop in ((0, rows), (rows // 3, rows // 2)):  # rows that begin inside a byte too
            expected = linear.weight().rows(start, stop)
            np.testing.assert_allclose(held.rows(start, stop), expected, rtol=1e-3, atol=1e-6)


def tokens(module, count=64):
    return np.random.default_rng(3).integers(3, module.arch.vocab, count).tolist()


@pytest.mark.parametrize("label", SHAPES)
def test_families_and_odd_shapes(label, random_model, tmp_path):
    module = quantized(random_model(**SHAPES[label]), weights="int8", block="channel", but=HEAD)
    emit_llm(module, tmp_path / "out", "normal", 1)
    got, expected = run_both(module, tmp_path / "out", tokens(module))
    assert np.abs(expected).max() > 1.0
    assert np.abs(got - expected).max() < 5e-5 * np.abs(expected).max()
    assert_shipped(module, tmp_path / "out")


@pytest.mark.parametrize("name", ["target", "draft"])
@pytest.mark.parametrize(
    ("how", "but"),
    [
        ({"weights": "int4", "block": 32}, HEAD),
        ({"weights": "int4", "block": 16, "symmetric": False}, ()),
        ({"weights": "int8", "block": "channel"}, ()),
        ({"weights": "int8", "block": 128, "symmetric": False}, HEAD),
        (None, ()),
    ],
)
def test_formats_compute_as_the_oracle(name, how, but, request, tmp_path):
    module = request.getfixturevalue(name)
    if how is not None:
        quantized(module, **how, but=but)
    made = emit_llm(module, tmp_path, "normal", 1)
    assert "shared with the head" in made.embedding
    got, expected = run_both(module, tmp_path, tokens(module))
    assert np.abs(got - expected).max() < 1e-4  # logits reach 15
    assert (got.argmax(-1) == expected.argmax(-1)).all()
    assert_shipped(module, tmp_path)


def test_low_memory_rounds_activations_and_no_more(target, tmp_path):
    quantized(target, weights="int4", block=32, but=HEAD)
    emit_llm(target, tmp_path, "low", 1)
    got, expected = run_both(target, tmp_path, tokens(target))
    assert 1e-3 < np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_a_head_of_its_own_format(target, tmp_path):
    quantized(target, weights="int4", block=32, but=HEAD)
    quantized(target, weights="int8", block=64, on=("lm_head",))
    made = emit_llm(target, tmp_path, "normal", 1)
    assert made.embedding == "float16"
    assert made.blobs["lm_head"].describe() == "int8 block 64 symmetric"
    assert_shipped(target, tmp_path)
    got, expected = run_both(target, tmp_path, tokens(target))
    assert np.abs(got - expected).max() < 1e-4


def test_an_embedding_in_bf16_keeps_its_own_file(random_model, tmp_path):
    module = random_model(**SHAPES["llama"])
    value = module.main.graph.initializers["embed_tokens.weight"]
    array = (value.const_value.numpy().view(np.uint32) & 0xFFFF0000).view(np.float32)
    value.const_value = from_array("embed_tokens.weight", array)
    assert emit_llm(module, tmp_path / "out", "normal", 1).embedding == "bfloat16"
    stored = np.fromfile(tmp_path / "out" / "embeddings_bf16.bin", np.uint16)
    np.testing.assert_array_equal(stored, (array.view(np.uint32) >> 16).astype(np.uint16).reshape(-1))
    got, expected = run_both(module, tmp_path / "out", tokens(module))
    assert np.abs(got - expected).max() < 2e-3 * np.abs(expected).max()


def test_weights_beyond_float16_are_stored_as_float32_and_said(random_model, tmp_path):
    module = random_model(**SHAPES["llama"])
    value = module.main.graph.initializers["layers.0.self_attn.v_proj.weight"]
    array = value.const_value.numpy().copy()
    array[0, 0] = 70000.0
    value.const_value = from_array(value.name, array)
    made = emit_llm(module, tmp_path / "out", "normal", 1)
    assert made.notes == ["`layers.0.self_attn.v_proj` is stored as float32: float16 would overflow"]


def test_the_same_module_gives_the_same_bytes(draft, tmp_path):
    quantized(draft, weights="int4", block=32, but=HEAD)
    for name in ("a", "b"):
        emit_llm(draft, tmp_path / name, "low", 2)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["config.json", "llm.mnn", "llm.mnn.weight", "llm_config.json", "tokenizer.mtok"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_inspect_tells_formats(draft, tmp_path):
    quantized(draft, weights="int4", block=32, but=HEAD)
    emit_llm(draft, tmp_path, "low", 2)
    facts = inspect(tmp_path / "llm.mnn")
    assert facts is not None
    rows = {row["name"]: row for row in facts["weights"]}
    assert rows["layers.1.mlp.up_proj"]["format"] == "int4 block 32 symmetric"
    assert rows["layers.1.mlp.up_proj"]["shape"] == [384, 128]
    assert rows["lm_head"]["format"] == "float16"
    assert facts["ops"]["Attention"] == 2


def test_the_context_and_the_vocabulary_are_held(draft, tmp_path):
    emit_llm(draft, tmp_path, "normal", 1)
    model = MnnLanguageModel(tmp_path, draft.arch.vocab, 16, "MNN")
    with pytest.raises(ValueError, match="exceed the context of 16"):
        model.forward([1] * 17)
    with pytest.raises(PlanError, match="outside the vocabulary"):
        model.forward([draft.arch.vocab])
    assert model.forward([]).shape == (0, draft.arch.vocab)
    model.close()


# --- refusals ------------------------------------------------------------------------------------------------


def rewrite(module, node, op, **attributes):
    """Put `op` behind the node of that name."""
    graph = module.main.graph
    found = module.node(node)
    value = found.outputs[0]
    made = ir.Node(
        "", op, [value], [ir.convenience.convert_attribute(k, v) for k, v in attributes.items()], name="mine"
    )
    made.outputs[0].name, made.outputs[0].shape, made.outputs[0].type = "mine.out", value.shape, value.type
    for reader, index in list(value.uses()):
        reader.replace_input_with(index, made.outputs[0])
    graph.insert_after(found, made)


@pytest.mark.parametrize(
    "node", ["layers.0.mlp.up_proj", "layers.1.self_attn.q_transpose", "embed_tokens", "rotary.cos"]
)
def test_a_node_it_does_not_know_is_named(node, draft, tmp_path):
    rewrite(draft, node, "Relu")
    with pytest.raises(PlanError, match=r"cannot run `mine` \(Relu\) of `draft`"):
        emit_llm(draft, tmp_path, "low", 1)


def test_known_ops_in_the_wrong_place_are_refused(draft, tmp_path, golden_error):
    rewrite(draft, "layers.0.input_layernorm", "Cos")
    with pytest.raises(PlanError) as caught:
        emit_llm(draft, tmp_path, "low", 1)
    golden_error("E0703", caught.value)


@pytest.mark.parametrize("part", ["key", "value"])
def test_a_cache_that_is_not_what_attention_reads_is_refused(part, draft, tmp_path):
    graph = draft.main.graph
    value = next(v for v in graph.outputs if v.name == f"past_{part}_0_out")
    node = ir.Node(
        "", "Add", [value, initializer(graph, "one", from_array("one", np.ones(1, np.float32)))], name="mine"
    )
    node.outputs[0].name = "mine.out"
    attention = draft.node("layers.0.self_attn.attention")
    graph.insert_before(attention, node)
    attention.replace_input_with(1 if part == "key" else 2, node.outputs[0])
    with pytest.raises(PlanError, match="E0703"):
        emit_llm(draft, tmp_path, "low", 1)


def test_buckets_are_refused(draft, tmp_path):
    Bucket(tokens=(1, 4), context=(64,)).run(draft, Scope())
    with pytest.raises(PlanError, match="E0704"):
        emit_llm(draft, tmp_path, "low", 1)


def test_a_model_without_tokenizer_is_refused(random_model, tmp_path, golden_error):
    module = random_model(**SHAPES["llama"])
    (module.source / "tokenizer.json").unlink()
    with pytest.raises(PlanError) as caught:
        emit_llm(module, tmp_path / "out", "low", 1)
    golden_error("E0705", caught.value, hide={str(module.source): "MODEL"})


def test_a_flipped_bit_is_found_on_reading_back(draft, tmp_path, golden_error):
    from edgec.compiler.ir.linears import linears

    quantized(draft, weights="int4", block=32, but=HEAD)
    made = emit_llm(draft, tmp_path, "low", 1)
    path, blob = tmp_path / "llm.mnn.weight", made.blobs["layers.1.mlp.down_proj"]
    written = {linear.name: linear for linear in linears(draft)}
    check_linears(tmp_path / "llm.mnn", made.blobs, written)
    data = bytearray(path.read_bytes())
    for place in (blob.offset + 3, blob.offset + blob.header_bytes + 100, blob.offset + blob.code_bytes + 5):
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(EngineError, match=r"layers\.1\.mlp\.down_proj") as caught:
            check_linears(tmp_path / "llm.mnn", made.blobs, written)
        data[place] ^= 1
    golden_error("E0706", caught.value)


def test_a_bundle_that_computes_something_else_is_found(draft, tmp_path):
    quantized(draft, weights="int4", block=32, but=HEAD)
    made = emit_llm(draft, tmp_path, "low", 1)
    compare(draft, tmp_path)
    blob = made.blobs["layers.0.mlp.down_proj"]
    with (tmp_path / "llm.mnn.weight").open("r+b") as file:
        file.seek(blob.offset + blob.code_bytes)
        file.write(np.full(blob.alpha_bytes // 2, 0.05, np.float16).tobytes())
    with pytest.raises(EngineError, match=r"E0711.*logits of `draft` are off by"):
        compare(draft, tmp_path)


def test_a_missing_file_is_an_engine_error(draft, tmp_path, golden_error):
    emit_llm(draft, tmp_path, "low", 1)
    (tmp_path / "llm.mnn").unlink()
    with pytest.raises(EngineError) as caught:
        MnnLanguageModel(tmp_path, draft.arch.vocab, 64, "MNN running `draft`")
    golden_error("E0702", caught.value, hide={str(tmp_path): "BUNDLE"})


def test_the_chat_template_travels(draft, tmp_path):
    source = tmp_path / "model"
    shutil.copytree(draft.tokenizer_folder, source)
    draft.tokenizer_folder = source
    template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    (source / "chat_template.jinja").write_text(template)
    emit_llm(draft, tmp_path / "out", "low", 1)
    config = json.loads((tmp_path / "out" / "llm_config.json").read_text())
    assert config["jinja"] == {"chat_template": template, "bos": "", "eos": "<|im_end|>"}
