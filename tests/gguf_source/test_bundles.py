"""What reads a model's folder works with a GGUF too: bundles per engine, chat, verify, calibration, speculation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .make_gguf import Type, write_gguf

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "examples" / "models"
TEXT = ROOT / "examples" / "text"
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}:{% endif %}"

PLAN = """
device host
model m {{ source = gguf("m.gguf")  context = 256 }}
model d {{ source = hf("{folder}")  context = 256 }}
calibration {{ text = "{text}/calibration.txt"  samples = 4  length = 64 }}
evaluation {{ text = "{text}/modules.txt"  windows = 2 }}
pipeline p {{ quantize (weights = int4, block = 32, method = awq)  except "embed_tokens" }}
pipeline b {{ bucket (tokens = [1, 4, 16], context = [256]) }}
deploy m on cpu through {pipeline} as {target}
{more}
require {{ m.perplexity <= 1.5 * baseline }}
"""


def edgec(*words: object) -> str:
    """Standard output of a command that has to succeed."""
    command = [sys.executable, "-m", "edgec.compiler.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def plan(tmp_path):
    """Writes and compiles a plan over `pycode-qwen2` as a GGUF of float16; returns the bundle."""
    write_gguf(
        MODELS / "pycode-qwen2",
        tmp_path / "m.gguf",
        lambda _n: Type.F16,
        metadata={"tokenizer.chat_template": TEMPLATE},
    )

    def compile_(pipeline: str, target: str, more: str = "") -> Path:
        text = PLAN.format(folder=MODELS / "pycode-qwen3", text=TEXT, pipeline=pipeline, target=target, more=more)
        (tmp_path / "p.edge").write_text(text)
        edgec("compile", tmp_path / "p.edge", "-o", tmp_path / "bundle", "--quiet")
        return tmp_path / "bundle"

    return compile_


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ort", "mnn"])
def test_a_gguf_runs_chats_and_is_verified(plan, tmp_path, target):
    bundle = plan("p", target)
    before = {path.name for path in tmp_path.iterdir()}
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["inputs"]["m"]["kind"] == "gguf"
    assert list(manifest["inputs"]["m"]["files"]) == ["m.gguf"]
    assert {path.name for path in (bundle / "tokenizer").iterdir()} >= {"tokenizer.json", "tokenizer_config.json"}
    told = json.loads(edgec("run", bundle, "--prompt", "def read(", "--chat", "--tokens", 4, "--json"))
    assert len(told["tokens"]) <= 4
    checked = json.loads(edgec("verify", bundle, "--text", TEXT / "modules.txt", "--windows", 2, "--json"))
    assert checked["ok"], checked["problems"]
    assert checked["baseline"]["m"] == pytest.approx(manifest["measured"]["baseline"]["m"])
    assert {path.name for path in tmp_path.iterdir()} == before  # nothing beside the user's file


@pytest.mark.slow
def test_a_gguf_drafts_for_a_folder_with_the_same_tokenizer(plan):
    bundle = plan("b", "ort", "deploy d on cpu through b as ort\nspeculate m -> d { k = 3 }")
    told = json.loads(edgec("run", bundle, "--prompt", "def read(", "--tokens", 8, "--json"))
    assert told["text"]
    assert len(list(bundle.glob("tokenizer*"))) <= 2


def test_inspect_shows_what_is_stored(tmp_path):
    path = write_gguf(MODELS / "pycode-qwen2", tmp_path / "m.gguf", lambda _n: Type.Q8_0)
    shown = json.loads(edgec("inspect", path, "--json"))
    assert shown["arch"]["family"] == "qwen2"
    assert shown["ggml_types"]["Q8_0"] == 15


def test_check_of_a_gguf_needs_no_array_library(tmp_path):
    write_gguf(MODELS / "pycode-qwen2", tmp_path / "m.gguf")
    (tmp_path / "p.edge").write_text(
        'device host\nmodel m { source = gguf("m.gguf")  context = 64 }\ndeploy m on cpu as mnn\n'
    )
    code = (
        "import sys\nfrom edgec.dsl import check_file\nfrom pathlib import Path\n"
        f"plan, found, _ = check_file(Path({str(tmp_path / 'p.edge')!r}), [])\n"
        "assert plan is not None, found\n"
        "assert not {'numpy', 'gguf', 'onnx_ir', 'tokenizers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_onnx_runtime_keeps_a_float_minimum(tmp_path):
    """Q4_1 as it is stored: MatMulNBits with zero points -minimum / scale."""
    import onnx

    write_gguf(MODELS / "pycode-qwen2", tmp_path / "m.gguf", lambda n: Type.F16 if "embd" in n else Type.Q4_1)
    (tmp_path / "p.edge").write_text(
        'plan p\ndevice host\nmodel m { source = gguf("m.gguf") context = 256 }\n'
        f'evaluation {{ text = "{TEXT}/modules.txt" windows = 2 }}\n'
        'pipeline k { quantize (method = keep) except "embed_tokens" }\ndeploy m on cpu through k as ort\n'
        "require { m.perplexity <= 1.0001 * baseline }\n"
    )
    edgec("compile", tmp_path / "p.edge", "-o", tmp_path / "b", "--quiet")
    model = onnx.load(tmp_path / "b" / "m" / "cpu0.onnx", load_external_data=False)
    assert sum(node.op_type == "MatMulNBits" for node in model.graph.node) >= 14
    kinds = {one.name: one.data_type for one in model.graph.initializer}
    assert {kind for name, kind in kinds.items() if name.endswith(".zero_points")} == {onnx.TensorProto.FLOAT}
