"""`shard = auto`: as few binaries as a device loads and a compile of `memory` bytes makes, on whatever machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from edgec.compiler.driver import estimate_plan, load_plan
from edgec.compiler.estimate.compile_cost import emit_cost
from edgec.compiler.partition.shards import boundaries
from edgec.targets.qnn.shards import _fewest

from .conftest import MODELS

LAYERS = [101e6] * 36  # weights of Qwen3-4B's layers
LAYERS[-1] += 389e6  # with the head
STORED = [count * 0.5625 for count in LAYERS]  # int4 with float16 scales of 32
GB = 1_000_000_000


@pytest.mark.parametrize("memory", [5 * GB, 8 * GB, 16 * GB])
def test_every_shard_compiles_within_the_plans_memory(memory):
    number = _fewest(STORED, LAYERS, 3, memory)
    starts = boundaries(STORED, number)
    spans = zip(starts, [*starts[1:], len(LAYERS)], strict=True)
    assert max(emit_cost("qnn", sum(LAYERS[a:b]), 3).memory for a, b in spans) <= memory
    assert _fewest(STORED, LAYERS, 3, 2 * memory) <= number


def test_more_buckets_take_more_shards_and_a_device_loads_two_gb():
    assert _fewest(STORED, LAYERS, 6, 8 * GB) > _fewest(STORED, LAYERS, 1, 8 * GB)
    assert _fewest(STORED, LAYERS, 1, 1000 * GB) == 2  # 2.3 GB in one


def test_no_part_of_the_choice_is_the_machines(monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda _name: pytest.fail("it looked at the machine"))
    assert _fewest(STORED, LAYERS, 3, 8 * GB) > 2


PLAN = """
plan shards
device snapdragon_8_gen_3
model target {{ source = hf("{models}/pycode-qwen3") context = 64 }}
pipeline npu {{
  quantize (weights = int4, block = 32)
  bucket (tokens = [1, 8], context = [64])
}}
deploy target on npu through npu as qnn {{ {options} accept = W0601 reason = "a test" }}
"""


def estimated(folder: Path, options: str) -> float:
    plan = folder / "plan.edge"
    plan.write_text(PLAN.format(models=MODELS, options=options))
    return estimate_plan(load_plan(plan)).compile.memory


def test_the_estimate_of_a_compile_counts_the_largest_shard(tmp_path):
    whole, half = estimated(tmp_path, "shard = 1"), estimated(tmp_path, "shard = 3")
    assert 0.15e9 < half < whole


def test_memory_beside_a_number_of_shards_is_refused(tmp_path):
    from edgec.compiler.diagnostics.diagnostic import EdgecError

    with pytest.raises(EdgecError, match="memory"):
        estimated(tmp_path, "shard = 3 memory = 16 GB")


def test_the_plan_decides(tmp_path):
    plan = tmp_path / "plan.edge"
    plan.write_text(PLAN.format(models=MODELS, options="memory = 16 GB"))
    (deploy,) = load_plan(plan).deploys
    assert (deploy.options.shard, deploy.options.memory) == ("auto", 16 * GB)
