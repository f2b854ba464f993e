"""The plan people write first: the embedding in its integers beside the NPU, ops on the CPU between integers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import edgec
import pytest
from edgec.compiler.driver import compile_plan, load_plan
from edgec.compiler.runtime import expected_time
from edgec.compiler.runtime.generate import Runner, run_bundle
from edgec.compiler.verify.verify_bundle import verify_bundle
from edgec.targets.qnn import call_time, twins
from edgec.targets.qnn.htp import emulator

ROOT = Path(__file__).resolve().parents[2]
PLAN = f"""plan first
device snapdragon_8_gen_3
model m {{{{ source = hf("{ROOT}/examples/models/pycode-qwen2")  context = 64 }}}}
calibration {{{{ text = "{ROOT}/examples/text/calibration.txt"  samples = 2  length = 32 }}}}
pipeline p {{{{
  {{lines}}
  bucket (tokens = [4], context = [64])
}}}}
deploy m on npu through p as qnn
"""


def made(folder: Path, *lines: str) -> dict[str, Any]:
    (folder / "plan.edge").write_text(PLAN.format(lines="\n  ".join(lines)))
    compile_plan(load_plan(folder / "plan.edge"), folder / "out")
    return json.loads((folder / "out" / "manifest.json").read_text())


def devices(manifest: dict[str, Any]) -> list[str]:
    (bucket,) = manifest["models"]["m"]["buckets"]
    return [manifest["parts"][name]["device"] for name in bucket["parts"]]


def weight(manifest: dict[str, Any], name: str) -> tuple[Any, ...]:
    row = next(row for row in manifest["models"]["m"]["weights"] if row["name"] == name)
    return row["dtype"], row["block"], row["bytes"]


def test_an_embedding_nobody_placed(tmp_path: Path) -> None:
    """int4, shared with the head in the model: stored for each, which a note says in bytes."""
    manifest = made(tmp_path, "quantize (weights = int4)")
    assert devices(manifest) == ["cpu", "npu"]
    vocab, hidden = manifest["models"]["m"]["weights"][0]["shape"]
    size = vocab * hidden * 9 // 16
    assert weight(manifest, "embed_tokens") == ("int4", 32, size)
    assert (tmp_path / "out" / "m" / "ort.data").stat().st_size <= size + 4096
    notes = (tmp_path / "out" / "report.html").read_text()
    assert "is looked up on the CPU, in its integers (int4 block 32 symmetric)" in notes
    assert f"it is stored for each, {size / 1e6:.2f} MB more" in notes


def test_an_embedding_that_is_not_quantised_has_16_bits(tmp_path: Path) -> None:
    manifest = made(
        tmp_path, 'quantize (weights = int4)  except "embed_tokens"', 'place (device = cpu)  on "embed_tokens"'
    )
    vocab, hidden = manifest["models"]["m"]["weights"][0]["shape"]
    assert weight(manifest, "embed_tokens") == ("float16", None, 2 * vocab * hidden)
    assert (tmp_path / "out" / "m" / "ort.data").stat().st_size <= 2 * vocab * hidden + 4096


@pytest.mark.parametrize(
    ("placed", "expected"),
    [("lm_head", ["cpu", "npu", "cpu"]), ("layers.0.mlp.*", ["cpu", "npu", "cpu", "npu"])],
)
def test_ops_on_the_cpu_between_integers(placed: str, expected: list[str], tmp_path: Path) -> None:
    """No part for a pair alone; the residual stream and the cache go around the CPU's part."""
    manifest = made(
        tmp_path,
        "quantize (weights = int8, block = channel, activations = uint16)",
        f'place (device = cpu)  on "{placed}"',
    )
    assert devices(manifest) == expected
    checked = verify_bundle(tmp_path / "out")
    assert checked["problems"] == []
    assert max(part["relative_error"] for part in checked["parts"].values()) < 0.1


def test_the_oracle_runs_the_npu_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator's tokens without the emulator, and what a call takes in it said from its bytes, then as measured."""
    made(tmp_path, "quantize (weights = int4)")
    prompt = "def mean(values):\n"
    said: list[str] = []

    def run(oracle: bool) -> list[int]:
        return run_bundle(tmp_path / "out", prompt, 6, oracle=oracle, tell=said.append)["tokens"]

    monkeypatch.setattr(expected_time, "_LONG", 0.0)
    monkeypatch.setattr(call_time, "_LONG", 0.0)
    emulated = run(oracle=False)
    run(oracle=False)
    assert len(said) == 2
    assert "a call of 4 tokens in the HTP emulator (estimated from the size of its binary" in said[0]
    assert "(as last measured here)" in said[1]
    monkeypatch.setattr(emulator, "open_shared", lambda *_: pytest.fail("the emulator was started"))
    monkeypatch.setattr(twins, "open_shared", emulator.open_shared)
    assert run(oracle=True) == emulated
    assert len(said) == 2
    with edgec.open(tmp_path / "out") as bundle:
        assert bundle.generate(prompt, 6, oracle=True).tokens == emulated


def test_a_short_call_is_not_announced(tmp_path: Path) -> None:
    made(tmp_path, "quantize (weights = int4)")
    assert Runner(tmp_path / "out").expected_time() is None
