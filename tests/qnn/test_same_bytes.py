"""The bytes of a bundle with a context binary do not depend on where the compiler lies in memory."""

from __future__ import annotations

import ctypes
import sys
import tempfile
from pathlib import Path

import pytest
from edgec import compile as compile_plan
from edgec.compiler.cli import main
from edgec.compiler.emit.child_process import Child
from edgec.compiler.emit.fixed_addresses import fixed_addresses, fixed_environment, of_one_length

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
PLAN = """
plan same
device snapdragon_8_gen_3
model m {{ source = hf("{model}")  context = 64 }}
pipeline p {{
    quantize (weights = int4, block = 32) except ["lm_head", "embed_tokens"]
    place (device = cpu) on "embed_tokens"
    bucket (tokens = [1, 16], context = [64])
}}
deploy m on npu through p as qnn
"""


@pytest.mark.slow
def test_two_compiles_with_empty_caches_give_the_same_bundle_and_verify_says_twin(tmp_path, monkeypatch, capsys):
    """Once more where they differ: on a busy machine threads may take memory in another order (docs/qnn.md)."""
    plan = tmp_path / "plan.edge"
    plan.write_text(PLAN.format(model=MODELS / "pycode-qwen2"), encoding="utf-8")

    def compiled(name: str, size: int) -> dict[Path, bytes]:
        monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / f"cache{name}"))
        monkeypatch.setenv("SOMETHING_ELSE", "y" * size)  # variables of other sizes move the stack
        scratch = tmp_path / name / ("t" * (1 + size // 60))  # and so did paths of other lengths
        scratch.mkdir(parents=True)
        monkeypatch.setenv("TMPDIR", str(scratch))
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        bundle = tmp_path / name / "bundle"
        compile_plan(plan, bundle)
        return {p.relative_to(bundle): p.read_bytes() for p in bundle.rglob("*") if p.is_file()}

    for number in range(3):
        first, second = compiled(f"{number}a", 0), compiled(f"{number}b", 3000)
        if not (others := [path for path in first | second if first.get(path) != second.get(path)]):
            break
    assert others == []
    assert main(["verify", str(tmp_path / f"{number}b" / "bundle")]) == 0
    said = {
        line.split(":")[0]: "its twin, not the shipped file" in line for line in capsys.readouterr().out.splitlines()
    }
    assert (said["part m.npu1"], said["part m.cpu0"]) == (True, False)


def test_the_block_alone_has_fixed_addresses():
    if sys.platform != "linux":
        pytest.skip("personality(2) is Linux's")
    ask = ctypes.CDLL(None).personality
    before = ask(0xFFFFFFFF)
    with fixed_addresses() as fixed:
        assert bool(ask(0xFFFFFFFF) & 0x0040000) == fixed or before & 0x0040000
    assert ask(0xFFFFFFFF) == before


def test_an_environment_has_one_size_whatever_it_holds(monkeypatch):
    def size(command: list[str]) -> int:
        variables = fixed_environment({"ONE": "1"}, command)
        return sum(len(f"{k}={v}") + 1 for k, v in variables.items()) + sum(len(w) + 1 for w in [command[0], *command])

    small = size(["/usr/bin/python", "-P"])
    monkeypatch.setenv("HOME", "/" + "h" * 300)
    monkeypatch.setenv("SOMETHING_ELSE", "y" * 3000)
    assert size(["/opt/another/place/python", "-P"]) == small


def test_a_scratch_folder_has_a_path_of_one_length(tmp_path):
    lengths = {len(str(of_one_length(tmp_path / ("t" * size)))) for size in (1, 5, 30)}
    assert len(lengths) == 1
    far = tmp_path / ("t" * 250)  # longer than that already
    assert of_one_length(far).parent == far


def test_a_process_says_where_fixed_addresses_are_refused(monkeypatch):
    from contextlib import nullcontext

    monkeypatch.setattr("edgec.compiler.emit.child_process.fixed_addresses", lambda: nullcontext(False))
    with Child("edgec.targets.qnn.htp.worker", what="the test", fixed=True) as child:
        assert child.fixed is False
