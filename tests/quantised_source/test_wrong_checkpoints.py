"""Quantised checkpoints that cannot be read are refused by name, from their headers, before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import Diagnostic, PlanError
from edgec.compiler.sources.hf.hf_source import HfSource
from edgec.compiler.sources.hf.load_hf import load_hf

from .make_quantised import Form, config_of, write_quantised

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "models" / "pycode-qwen2"
GPTQ = Form("gptq", 4, 32, version="gptq")
ASYM = Form("gptq", 4, 32, False, version="gptq")
AWQ = Form("awq", 4, 32, False, version="gemm")
PACKED = Form("compressed-tensors", 4, 32, False)
UP = "model.layers.0.mlp.up_proj"

Change = Callable[[dict[str, np.ndarray]], Any]


def refused(path: Path) -> Diagnostic:
    """What `edgec check` says, which reads headers only."""
    with pytest.raises(PlanError) as caught:
        HfSource().outline(path)
    (diagnostic,) = caught.value.diagnostics
    return diagnostic


def changed(form: Form, **keys: Any) -> dict[str, Any]:
    return {**config_of(form), **keys}


def grouped(**weights: Any) -> dict[str, Any]:
    """A compressed-tensors config whose group has other weights."""
    made = config_of(PACKED)
    made["config_groups"]["group_0"]["weights"] |= weights
    return made


def inside(**keys: Any) -> dict[str, Any]:
    made = config_of(PACKED)
    made["config_groups"]["group_0"] |= keys
    return made


def put(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda tensors: tensors.update({name: change(tensors[name])})


CONFIGS: dict[str, tuple[Form, dict[str, Any], str, str]] = {
    "unknown method": (GPTQ, {"quant_method": "exl3"}, "E0335", "as exl3"),
    "no method": (GPTQ, {"bits": 4}, "E0335", "as unknown"),
    "fp8": (GPTQ, {"quant_method": "fp8", "weight_block_size": [128, 128]}, "E0335", "as fp8"),
    "bitsandbytes": (GPTQ, {"quant_method": "bitsandbytes", "load_in_4bit": True}, "E0335", "as bitsandbytes"),
    "mxfp4": (GPTQ, {"quant_method": "mxfp4"}, "E0335", "as mxfp4"),
    "marlin": (GPTQ, changed(GPTQ, checkpoint_format="marlin"), "E0335", "format `marlin`"),
    "is_marlin": (GPTQ, changed(GPTQ, is_marlin_format=True), "E0335", "format `marlin`"),
    "planar": (GPTQ, changed(GPTQ, checkpoint_format="gptq_p"), "E0335", "format `gptq_p`"),
    "pack_dtype": (GPTQ, changed(GPTQ, pack_dtype="int16"), "E0335", "packed in int16"),
    "adapter": (GPTQ, changed(GPTQ, adapter={"rank": 8}), "E0335", "`adapter`"),
    "5 bits": (GPTQ, changed(GPTQ, bits=5), "E0335", "with 5 bits"),
    "no bits": (GPTQ, {"quant_method": "gptq", "group_size": 32}, "E0336", "no `quantization_config.bits`"),
    "no group": (GPTQ, {"quant_method": "gptq", "bits": 4}, "E0336", "no `quantization_config.group_size`"),
    "bits as text": (GPTQ, changed(GPTQ, bits="4"), "E0336", "an integer"),
    "a group of zero": (GPTQ, changed(GPTQ, group_size=0), "E0336", "not 0"),
    "a negative group": (GPTQ, changed(GPTQ, group_size=-32), "E0336", "an integer from -1"),
    "another group": (GPTQ, changed(GPTQ, group_size=64), "E0349", "has shape [4, 16], gptq int4 group 64"),
    "another width": (GPTQ, changed(GPTQ, bits=8), "E0349", "has shape [16, 128], gptq int8 group 32"),
    "a pattern": (GPTQ, changed(GPTQ, dynamic={"+:(": {"bits": 8}}), "E0335", "cannot be read, `(`"),
    "a slow pattern": (GPTQ, changed(GPTQ, dynamic={"+:(a+)+$": {"bits": 8}}), "E0335", "repeats a group"),
    "dynamic of a wrong width": (GPTQ, changed(GPTQ, dynamic={".*up_proj": {"bits": 8}}), "E0349", "int8 group 32"),
    "dynamic leaves it out": (GPTQ, changed(GPTQ, dynamic={"-:.*up_proj": {}}), "E0349", "leaves it out"),
    "awq 8": (AWQ, changed(AWQ, bits=8), "E0335", "with 8 bits"),
    "awq marlin": (AWQ, changed(AWQ, version="marlin"), "E0335", "version `marlin`"),
    "awq without zero points": (AWQ, changed(AWQ, zero_point=False), "E0335", "without zero points"),
    "awq as gemv": (AWQ, changed(AWQ, version="gemv"), "E0349", "awq int4 group 32 of [128, 128] has [128, 4]"),
    "awq leaves it out": (AWQ, changed(AWQ, modules_to_not_convert=["up_proj"]), "E0349", "leaves it out"),
    "float-quantized": (PACKED, changed(PACKED, format="float-quantized"), "E0335", "format `float-quantized`"),
    "no groups": (PACKED, changed(PACKED, config_groups={}), "E0335", "without `config_groups`"),
    "a group's format": (PACKED, inside(format="nvfp4-pack-quantized"), "E0335", "`nvfp4-pack-quantized`"),
    "no weights": (PACKED, inside(weights=None), "E0335", "no `weights`"),
    "activations": (PACKED, inside(input_activations={"num_bits": 8}), "E0335", "`input_activations`"),
    "float weights": (PACKED, grouped(type="float"), "E0335", "type `float`"),
    "strategy": (PACKED, grouped(strategy="block"), "E0335", "strategy `block`"),
    "16 bits": (PACKED, grouped(num_bits=16), "E0335", "16 bits"),
    "group of text": (PACKED, grouped(group_size="32"), "E0336", "an integer"),
    "group of none": (PACKED, grouped(group_size=0), "E0336", "an integer from 1"),
    "sparse": (PACKED, changed(PACKED, sparsity_config={"format": "sparse-24-bitmask"}), "E0335", "`sparsity_config`"),
    "ignored": (PACKED, changed(PACKED, ignore=["re:.*up_proj"]), "E0349", "leaves it out"),
    "symmetric": (PACKED, grouped(symmetric=True), "", ""),  # zero points that are all the middle would be right
}


@pytest.mark.parametrize("name", [name for name, case in CONFIGS.items() if case[2]])
def test_wrong_configs(tmp_path: Path, name: str) -> None:
    form, config, code, says = CONFIGS[name]
    write_quantised(FOLDER, tmp_path, form, config)
    diagnostic = refused(tmp_path)
    assert (diagnostic.code, says in diagnostic.message) == (code, True), diagnostic.message
    assert str(tmp_path) in diagnostic.message


TENSORS: dict[str, tuple[Form, Change, str, str]] = {
    "no scales": (GPTQ, lambda t: t.pop(f"{UP}.scales"), "E0343", "up_proj.scales`"),
    "no zeros": (GPTQ, lambda t: t.pop(f"{UP}.qzeros"), "E0343", "up_proj.qzeros`"),
    "no integers": (GPTQ, lambda t: t.pop(f"{UP}.qweight"), "E0343", "up_proj.weight`"),
    "short": (GPTQ, put(f"{UP}.qweight", lambda a: a[:-1]), "E0349", "has shape [15, 384], gptq int4 group 32 of"),
    "turned": (GPTQ, put(f"{UP}.qweight", lambda a: a.T), "E0349", "has shape [384, 16]"),
    "scales": (GPTQ, put(f"{UP}.scales", lambda a: a[:-1]), "E0349", "has shape [3, 384]"),
    "zeros": (AWQ, put(f"{UP}.qzeros", lambda a: a[:, 1:]), "E0349", "has shape [4, 47]"),
    "g_idx": (GPTQ, put(f"{UP}.g_idx", lambda a: a[:-1]), "E0349", "has shape [127]"),
    "types": (GPTQ, put(f"{UP}.qweight", lambda a: a.astype(np.int64)), "E0349", "is stored as I64"),
    "scale types": (GPTQ, put(f"{UP}.scales", lambda a: a.astype(np.int32)), "E0349", "is stored as I32"),
    "packed zeros": (PACKED, lambda t: t.pop(f"{UP}.weight_zero_point"), "E0343", "weight_zero_point`"),
    "whole": (PACKED, put(f"{UP}.weight_shape", lambda a: a + 1), "E0349", "says [385, 129]"),
    "whole's type": (PACKED, put(f"{UP}.weight_shape", lambda a: a.astype(np.float32)), "E0349", "two integers"),
    "a bias": (GPTQ, lambda t: t.update({f"{UP}.bias": np.ones(384, "f2")}), "E0344", "up_proj.bias`"),
    "an embedding": (
        GPTQ,
        lambda t: t.update({"model.embed_tokens.qweight": t.pop("model.embed_tokens.weight").view(np.int32)}),
        "E0343",
        "embed_tokens.weight`",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_wrong_tensors(tmp_path: Path, name: str) -> None:
    form, change, code, says = TENSORS[name]
    write_quantised(FOLDER, tmp_path, form, change=change)
    diagnostic = refused(tmp_path)
    assert (diagnostic.code, says in diagnostic.message) == (code, True), diagnostic.message


def test_the_message_of_a_contradiction(tmp_path: Path, golden_error: Callable[..., None]) -> None:
    write_quantised(FOLDER, tmp_path, GPTQ, changed(GPTQ, group_size=64))
    golden_error("E0349", [refused(tmp_path)], hide={str(tmp_path): "TMP"})


def fp8(tensors: dict[str, np.ndarray]) -> None:
    tensors[f"{UP}.weight"] = tensors[f"{UP}.weight"].astype(ml_dtypes.float8_e4m3fn)
    tensors[f"{UP}.weight_scale"] = np.ones(1, np.float32)


def bitsandbytes(tensors: dict[str, np.ndarray]) -> None:
    tensors[f"{UP}.weight.absmax"] = np.ones(4, np.float32)
    tensors[f"{UP}.weight.quant_map"] = np.ones(16, np.float32)


UNSTATED: dict[str, tuple[Form | None, Change | None, str]] = {
    "gptq": (GPTQ, None, "GPTQ or AWQ"),
    "packed": (PACKED, None, "compressed-tensors"),
    "fp8": (None, fp8, "8-bit floats"),
    "bitsandbytes": (None, bitsandbytes, "bitsandbytes"),
}


@pytest.mark.parametrize("name", UNSTATED)
def test_integers_without_a_config_are_seen(tmp_path: Path, name: str) -> None:
    form, change, says = UNSTATED[name]
    write_quantised(FOLDER, tmp_path, form or (lambda _linear: None), {}, change=change)
    diagnostic = refused(tmp_path)
    assert (diagnostic.code, says in diagnostic.message) == ("E0335", True), diagnostic.message
    assert "quantize_config.json" in (diagnostic.help or "")


@pytest.mark.parametrize(
    ("form", "file", "keys"),
    [
        (ASYM, "quantize_config.json", {"bits": 4, "group_size": 32, "sym": False, "desc_act": False}),
        (AWQ, "quant_config.json", {"w_bit": 4, "q_group_size": 32, "version": "GEMM", "zero_point": True}),
    ],
    ids=["gptq", "awq"],
)
def test_older_tools_wrote_a_file_of_their_own(tmp_path: Path, form: Form, file: str, keys: dict[str, Any]) -> None:
    expected = write_quantised(FOLDER, tmp_path, form, {})
    (tmp_path / file).write_text(json.dumps(keys))
    weight = load_hf("m", tmp_path, 64).main.graph.initializers["layers.1.mlp.down_proj.weight"].const_value
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy(), expected["layers.1.mlp.down_proj.weight"])
    assert tmp_path / file in HfSource().files(tmp_path)


def test_biases_of_zeros_that_old_tools_added(tmp_path: Path) -> None:
    write_quantised(FOLDER, tmp_path, GPTQ, change=lambda t: t.update({f"{UP}.bias": np.zeros(384, "f2")}))
    HfSource().outline(tmp_path)


READ: dict[str, tuple[Change, str, str]] = {
    "uneven": (put(f"{UP}.qzeros", lambda a: a + 1), "E0349", "zero points other than 8 for output 0"),
    "no number": (put(f"{UP}.scales", lambda a: a * np.float16(np.nan)), "E0347", "up_proj.scales` in"),
    "a group beyond": (put(f"{UP}.g_idx", lambda a: a + 1), "E0349", "names a group beyond the 4"),
}


@pytest.mark.parametrize("name", READ)
def test_numbers_that_cannot_be(tmp_path: Path, name: str) -> None:
    """What only the numbers tell is an error when they are read."""
    change, code, says = READ[name]
    write_quantised(FOLDER, tmp_path, GPTQ, change=change)
    weight = load_hf("m", tmp_path, 64).main.graph.initializers["layers.0.mlp.up_proj.weight"].const_value
    assert weight is not None
    with pytest.raises(PlanError) as caught:
        weight.numpy()
    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.code, says in diagnostic.message) == (code, True), diagnostic.message
