"""Peak memory of a calibrated method: blocks are solved one at a time, so more of them take no more."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.sources.hf.read_decoder_arch import read_arch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# 3.3 MB a layer in float32. Anonymous memory is sampled: of the libraries' files more or less is resident (VmHWM
# differs by 90 MiB), and `ru_maxrss` would remember the test runner that this was forked from.
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 256, "intermediate_size": 768,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000,
    "max_position_embeddings": 512, "tie_word_embeddings": True, "eos_token_id": 2,
}  # fmt: skip
CODE = """
import re, sys, threading, time
from pathlib import Path
from edgec.compiler.diagnostics.diagnostic import Span
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.plan.plan import Calibration
from edgec.passes.quantize import Quantize

peak = 0

def watch():
    global peak
    while True:
        found = re.search(r"RssAnon:\\s*(\\d+)", Path("/proc/self/status").read_text())
        peak = max(peak, int(found[1]) // 1024)
        time.sleep(0.002)

threading.Thread(target=watch, daemon=True).start()
span = Span("memory", 1, 1, 1, 1)
module = load_hf("m", Path(sys.argv[1]), 128)
scope = Scope(None, sys.argv[4:], span, Calibration((Path(sys.argv[2]),), 8, 64, 0, span))
Quantize(weights="int4", method=sys.argv[3]).run(module, scope)
print(peak)
"""


def write(folder: Path, layers: int, vocab: int = 2048) -> None:
    """A random checkpoint of bf16 weights."""
    like = EXAMPLES / "models" / "pycode-qwen3"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers, "vocab_size": vocab}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((like / name).read_bytes())
    rng, header, offset, parts = np.random.default_rng(0), {}, 0, []
    for name, shape in read_arch(folder).tensors().items():
        array = rng.standard_normal(shape, np.float32) * (0.05 if len(shape) > 1 else 0.1) + ("norm" in name)
        parts.append((array.astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes())
        header[f"model.{name}"] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + len(parts[-1])]}
        offset += len(parts[-1])
    raw = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + b"".join(parts))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_more_layers_take_no_more(tmp_path: Path, method: str) -> None:
    peaks = {}
    for layers in (3, 31):
        write(tmp_path / str(layers), layers)
        peaks[layers] = peak(tmp_path / str(layers), method, "lm_head", "embed_tokens")
    assert peaks[31] - peaks[3] < 60, f"{peaks} MiB, where 28 layers' weights are 92 MiB in float32"


@pytest.mark.slow
@pytest.mark.parametrize("kept", [("lm_head", "embed_tokens"), ("lm_head",)])
def test_a_larger_vocabulary_takes_little_more(tmp_path: Path, kept: tuple[str, ...]) -> None:
    """Of an embedding, left in float or quantised, only the rows that the text looks up are held."""
    peaks = {}
    for vocab in (2048, 1 << 17):
        write(tmp_path / str(vocab), 1, vocab)
        peaks[vocab] = peak(tmp_path / str(vocab), "gptq", *kept)
    assert peaks[1 << 17] - peaks[2048] < 48, f"{peaks} MiB, where the embedding is 128 MiB in float32"


def peak(model: Path, method: str, *kept: str) -> int:
    """MiB that a process takes in which all but `kept` is quantised."""
    command = [sys.executable, "-c", textwrap.dedent(CODE), model, EXAMPLES / "text" / "heldout.txt", method, *kept]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
