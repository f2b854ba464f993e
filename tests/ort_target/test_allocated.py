"""What ONNX Runtime allocates in a call, counted in front of malloc, is what the plan says, within 5 %."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx.parser
import onnx_ir as ir
import pytest
from edgec.compiler.driver import compile_plan, load_plan
from edgec.compiler.kernels.c_compiler import compiler
from edgec.targets.ort.attention import join_past

ROOT = Path(__file__).parents[2]
BENCHMARK = ROOT / "benchmarks" / "allocated.py"
PLAN = """
device host
model m {{ source = hf("{model}")  context = 512 }}
pipeline p {{ quantize (weights = {weights})  bucket (tokens = [1, 64], context = [512]) }}
deploy m on cpu through p as ort {{ {options} }}
"""


@pytest.mark.skipif(sys.platform != "linux" or compiler() is None, reason="counts through glibc")
@pytest.mark.parametrize(("weights", "options"), [("int8", ""), ("int4, block = 32", "compute = int8")])
def test_a_call_takes_what_was_planned(tmp_path: Path, weights: str, options: str) -> None:
    model = ROOT / "examples" / "models" / "pycode-qwen3"
    (tmp_path / "plan.edge").write_text(PLAN.format(model=model, weights=weights, options=options))
    bundle = compile_plan(load_plan(tmp_path / "plan.edge"), tmp_path / "bundle").bundle
    library = tmp_path / "allocations.so"
    words = ["-O2", "-shared", "-fPIC", "-o", str(library), str(BENCHMARK.with_name("allocations.c"))]
    subprocess.run([*(compiler() or []), *words], check=True)
    command = [sys.executable, str(BENCHMARK), "--measure", str(bundle), str(library)]
    env = {**os.environ, "LD_PRELOAD": str(library)}
    counts = json.loads(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
    (arenas,) = json.loads((bundle / "manifest.json").read_text())["memory"]["m"]["arenas"].values()
    for bucket, size in arenas.items():
        (count,) = (row for key, row in counts.items() if key.endswith(bucket))
        lists = 24 << 10  # of the engine's own, in a call: much beside a model of this size
        assert count["allocated"] == pytest.approx(size - count["inputs"], rel=0.05, abs=lists)
        expanded = 4 * 2048 * 256  # the head's floats, which ONNX Runtime makes of 8 bits in each call
        assert (count["allocated"] > expanded) == (weights == "int8" or bucket.startswith("t64"))


TEXT = """<ir_version: 11, opset_import: ["" : 24]>
g (float[1,2,1,4] q, float[1,1,1,4] k, float[1,1,1,4] v, float[1,1,1,8] m, float[1,1,7,4] pk, float[1,1,7,4] pv)
  => (float[1,2,1,4] y{more}) {{ y, keys, values = Attention{causal} (q, k, v, m, pk, pv) }}"""


@pytest.mark.parametrize(
    ("more", "causal", "ops"),
    [
        ("", "", ["Concat", "Concat", "Attention"]),
        (", float[1,1,8,4] keys", "", ["Attention"]),
        ("", "<is_causal = 1>", ["Attention"]),
    ],
)
def test_a_past_is_joined_where_nobody_reads_the_presents(more: str, causal: str, ops: list[str]) -> None:
    model = ir.from_proto(onnx.parser.parse_model(TEXT.format(more=more, causal=causal)))
    join_past(model.graph)
    assert [node.op_type for node in model.graph] == ops
    assert (len(list(model.graph)[-1].outputs) == 1) == (len(ops) == 3)
