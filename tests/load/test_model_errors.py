"""What a wrong model folder is told: each fault by its code, naming the file and the key or tensor."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.sources.hf.read_decoder_arch import read_arch
from safetensors.numpy import load_file, save_file

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole and right Llama of one layer."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    arch = read_arch(tmp_path)
    rng = np.random.default_rng(0)
    tensors = {
        name if name == "lm_head.weight" else f"model.{name}": rng.normal(size=shape).astype(np.float32)
        for name, shape in arch.tensors().items()
    }
    save_file(tensors, tmp_path / "model.safetensors")
    load_hf("m", tmp_path, 64)
    return tmp_path


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    """The code and message of the one diagnostic that `call` raises."""
    with pytest.raises(PlanError) as caught:
        call()
    (diagnostic,) = caught.value.diagnostics
    return diagnostic.code, diagnostic.message


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"model_type": "gemma2"}, "E0332", "`gemma2`"),
        ({"model_type": None}, "E0336", "no `model_type`"),
        ({"model_type": "qwen3_moe", "num_experts": 8}, "E0333", "mixture of experts (`num_experts`)"),
        ({"model_type": "qwen2_vl", "vision_config": {}}, "E0333", "multimodal model (`vision_config`)"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "E0333", "`LlamaForSequenceClassification`"),
        ({"hidden_act": "gelu"}, "E0333", "`gelu`"),
        ({"layer_types": ["sliding_attention"]}, "E0333", "`sliding_attention`"),
        ({"model_type": "qwen3", "layer_types": ["linear_attention"]}, "E0333", "`linear_attention`"),
        ({"model_type": "qwen3", "layer_types": ["full_attention"] * 2}, "E0337", "2 entries for 1 layers"),
        ({"model_type": "qwen3", "layer_types": ["sliding_attention"]}, "E0336", "sets no `sliding_window`"),
        ({"model_type": "mistral", "sliding_window": 0}, "E0336", "`sliding_window` in"),
        ({"model_type": "smollm3", "no_rope_layers": [True]}, "E0336", "a list of integers"),
        ({"model_type": "smollm3", "num_hidden_layers": 2, "no_rope_layers": [1]}, "E0337", "1 entries for 2 layers"),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "E0333", "`final_logit_softcapping`"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "E0333", "`attn_logit_softcapping`"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "E0333", "attention to later positions"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}}, "E0337", "has 1 numbers"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0, -1]}}, "E0336", "a list of numbers above 0"),
        ({"partial_rotary_factor": 0.5}, "E0333", "partial rotary"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "E0333", "partial rotary"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "E0334", "`dynamic`, which edgec cannot build: its"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "E0334", "`spiral`"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "E0335", "bitsandbytes"),
        ({"hidden_size": None}, "E0336", "no `hidden_size`"),
        ({"hidden_size": "16"}, "E0336", "`hidden_size` in"),
        ({"hidden_size": 16.0}, "E0336", "an integer, not 16.0"),
        ({"hidden_size": True}, "E0336", "an integer, not true"),
        ({"num_hidden_layers": 10**9}, "E0336", "an integer from 1 to 4096"),
        ({"vocab_size": 0}, "E0336", "an integer from 1"),
        ({"rms_norm_eps": float("inf")}, "E0336", "a finite number"),
        ({"rms_norm_eps": -1}, "E0336", "a number above 0"),
        ({"tie_word_embeddings": "no"}, "E0336", "true or false"),
        ({"rope_scaling": {"rope_type": "linear"}}, "E0336", "no `rope_scaling.factor`"),
        ({"rope_scaling": [1]}, "E0336", "an object"),
        ({"eos_token_id": "</s>"}, "E0336", "a token id or a list of them"),
        ({"layer_types": "full_attention"}, "E0336", "a list of strings"),
        ({"num_key_value_heads": 3}, "E0337", "4 attention heads cannot share 3 K/V heads"),
        ({"hidden_size": 18}, "E0337", "hidden size 18 does not divide by 4"),
        ({"head_dim": 5}, "E0337", "head_dim 5 is odd"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}},
            "E0337",
            "`low_freq_factor` 4 is not below",
        ),
        ({"rope_theta": 1.0, "rope_scaling": {"rope_type": "yarn", "factor": 2}}, "E0337", "`rope_theta` 1"),
    ],
)
def test_config_faults(change: dict[str, Any], code: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **change}))
    found, message = refused(lambda: read_arch(tmp_path))
    assert found == code
    assert says in message
    assert str(tmp_path) in message


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (b"", "E0331", "is not JSON"),
        (b"{'a': 1}", "E0331", "at line 1"),
        (b"[" * 100_000, "E0331", "nests too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "E0331", "a number is too long"),
        (b"[1]", "E0331", "holds no JSON object, but a list"),
        (b"\xff\xfe{}", "E0330", "not UTF-8"),
    ],
)
def test_config_is_no_json(text: bytes, code: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text)
    found, message = refused(lambda: read_arch(tmp_path))
    assert (found, says in message) == (code, True), message


def test_no_config(tmp_path: Path) -> None:
    assert refused(lambda: read_arch(tmp_path)) == (
        "E0330",
        f"cannot read `{tmp_path / 'config.json'}`: it does not exist",
    )
    assert "its folder does not exist" in refused(lambda: read_arch(tmp_path / "nowhere"))[1]
    (tmp_path / "config.json").mkdir()
    assert "is a directory" in refused(lambda: read_arch(tmp_path))[1]


def test_generation_config_decides_what_ends_a_text(folder: Path) -> None:
    path = folder / "generation_config.json"
    assert read_arch(folder).eos == (2,)
    path.write_text('{"eos_token_id": [7, 9], "bos_token_id": 1}')
    assert (read_arch(folder).eos, read_arch(folder).bos) == ((7, 9), 1)
    path.write_text('{"eos_token_id": [7, "x"]}')
    assert refused(lambda: read_arch(folder))[0] == "E0336"


def test_reading_a_config_needs_no_array_library() -> None:
    """`edgec check` reads configs and has 0.3 s."""
    code = "import sys; import edgec.compiler.sources.hf.read_decoder_arch; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"numpy", "onnx", "onnx_ir", "torch"}.isdisjoint(done.stdout.split())


def test_context_beyond_the_model(folder: Path) -> None:
    code, message = refused(lambda: load_hf("m", folder, 65))
    assert code == "E0338"
    assert message.startswith("context 65 is longer than the 64 positions")


def edit(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda t: t.pop(UP), "E0343", "`layers.0.mlp.up_proj.weight`"),
        (lambda t: t.pop("lm_head.weight"), "E0343", "`lm_head.weight`"),
        (lambda t: [t.pop(name) for name in list(t)[:5]], "E0343", "and 2 more"),
        (lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(16, "f4")}), "E0344", "q_proj.bias`"),
        (lambda t: t.update({UP: t[UP].T.copy()}), "E0345", "has shape [16, 24], config.json asks for [24, 16]"),
        (lambda t: t.update({UP: t[UP].astype(np.float64)}), "E0346", f"tensor `{UP}`"),
        (lambda t: t.update({UP: t[UP].astype(ml_dtypes.float8_e4m3fn)}), "E0346", "F8_E4M3"),
    ],
)
def test_tensor_faults(folder: Path, change: Callable[[Any], Any], code: str, says: str) -> None:
    edit(folder, change)
    found, message = refused(lambda: load_hf("m", folder, 64))
    assert found == code
    assert says in message
    assert str(folder) in message


def test_tied_head_stored_as_well(folder: Path) -> None:
    """A copy is fine; another head means that the config is wrong."""
    (folder / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": True}))
    assert refused(lambda: load_hf("m", folder, 64))[0] == "E0344"
    edit(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].copy()}))
    assert "lm_head.weight" not in load_hf("m", folder, 64).main.graph.initializers


def test_old_rotary_buffers_are_let_be(folder: Path) -> None:
    """Computed from the config: what a checkpoint stored of them, zeros here, is in no constant of the graph."""

    def constants() -> dict[str, bytes]:
        held = load_hf("m", folder, 64).main.graph.initializers.items()
        return {name: value.const_value.tobytes() for name, value in held if value.const_value is not None}

    before = constants()
    edit(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(2, "f4")}))
    assert constants() == before


def header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    fields = json.loads(raw[8 : 8 + length])
    change(fields)
    made = json.dumps(fields).encode()
    path.write_bytes(len(made).to_bytes(8, "little") + made + raw[8 + length :])


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda f: f.update({UP: 3}), "E0341", f"gives no usable offsets or type for tensor `{UP}`"),
        (lambda f: f[UP].update(shape=[24, -16]), "E0341", f"gives no usable offsets or type for tensor `{UP}`"),
        (lambda f: f[UP].update(data_offsets=[0]), "E0341", f"gives no usable offsets or type for tensor `{UP}`"),
        (lambda f: f[UP].update(data_offsets=[0, 8]), "E0341", "8 bytes do not make F32[24, 16]"),
        (lambda f: f[UP].update(data_offsets=[0, 10**15]), "E0342", "cut short"),
    ],
)
def test_header_faults(folder: Path, change: Callable[[Any], Any], code: str, says: str) -> None:
    header(folder, change)
    found, message = refused(lambda: load_hf("m", folder, 64))
    assert (found, says in message) == (code, True), message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "does not fit in its 0 bytes"),
        (b"\x00" * 8 + b"{}", "its header is not JSON"),
        (b"\xff" * 64, "does not fit in its 64 bytes"),
        ((2).to_bytes(8, "little") + b"[]", "its header is not an object"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "its header is not JSON"),
    ],
)
def test_no_safetensors(folder: Path, content: bytes, says: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    code, message = refused(lambda: load_hf("m", folder, 64))
    assert (code, says in message) == ("E0341", True), message


def test_cut_file_at_every_length(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    for length in range(0, len(raw), 97):
        path.write_bytes(raw[:length])
        assert refused(lambda: load_hf("m", folder, 64))[0] in ("E0341", "E0342")


def test_shards(folder: Path) -> None:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    names = list(load_file(single))
    shutil.move(single, folder / "one.safetensors")
    assert refused(lambda: load_hf("m", folder, 64))[0] == "E0340"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "one.safetensors")}))
    load_hf("m", folder, 64)
    faults = {
        "E0336": [{}, {"weight_map": {UP: 3}}],
        "E0340": [{"weight_map": {UP: "two.safetensors"}}, {"weight_map": {UP: "../one.safetensors"}}],
        "E0343": [{"weight_map": {"model.none": "one.safetensors"}}, {"weight_map": {UP: "one.safetensors"}}],
    }
    for code, contents in faults.items():
        for content in contents:
            index.write_text(json.dumps(content))
            assert refused(lambda: load_hf("m", folder, 64))[0] == code


def test_pickled_weights_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    code, message = refused(lambda: load_hf("m", folder, 64))
    assert code == "E0340"
    assert "pickled" in message


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


GOLDEN: dict[str, Callable[[Path], Any]] = {
    "E0340": lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
    "E0341": lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1"),
    "E0342": cut,
    "E0343": lambda folder: edit(folder, lambda t: t.pop("lm_head.weight")),
    "E0344": lambda folder: edit(folder, lambda t: t.update({"model.layers.7.mlp.up_proj.weight": t[UP]})),
    "E0345": lambda folder: edit(folder, lambda t: t.update({UP: t[UP].T.copy()})),
    "E0346": lambda folder: edit(folder, lambda t: t.update({UP: t[UP].astype(ml_dtypes.float8_e4m3fn)})),
}


@pytest.mark.parametrize("code", GOLDEN)
def test_golden(code: str, folder: Path, golden_error: Callable[..., None]) -> None:
    GOLDEN[code](folder)
    with pytest.raises(PlanError) as caught:
        load_hf("m", folder, 64)
    golden_error(code, caught.value, hide={str(folder): "models/llama"})
