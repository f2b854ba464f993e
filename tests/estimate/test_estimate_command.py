"""`edgec estimate` on plans of the example models: figures, requirements, refusals."""

import json
from pathlib import Path

import pytest
from edgec.compiler.cli import main
from edgec.compiler.compile.estimate_plan import estimate_plan, within_memory
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.driver import load_plan

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"

PLAN = """
device {device}
model target {{ source = hf("{models}/pycode-qwen3")  context = 256 }}
model draft  {{ source = hf("{models}/pycode-qwen2")  context = 256 }}
pipeline npu {{
  quantize (weights = int4, block = 32)  except ["lm_head", "embed_tokens"]
  bucket (tokens = [1, 4, 64], context = [256])
}}
deploy target on npu through npu as qnn {{ accept = [W0307, W0601]  reason = "a test" }}
deploy draft on cpu as mnn
speculate draft -> target {{ k = 3 }}
require {{ {require} }}
"""


@pytest.fixture
def plan(tmp_path):
    def write(require="", device="snapdragon_8_gen_3"):
        path = tmp_path / "p.edge"
        path.write_text(PLAN.format(models=MODELS, require=require, device=device))
        return path

    return write


def test_json_holds_every_figure(plan, capsys):
    assert main(["estimate", str(plan("decode.rate >= 15 tok/s  peak_memory <= 1 GiB")), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    target = made["models"]["target"]
    arch = 3 * (128 * 128 * 2 + 2 * 128 * 64 + 3 * 128 * 384)
    linears = sum(part["read"] for part in target["calls"][0]["parts"] if part["lane"] == "npu")
    assert linears > arch * 4.5 / 8  # int4 with a 16-bit scale for 32 weights, head and cache on top
    assert {call["tokens"] for call in target["calls"]} == {1, 4, 64}
    assert set(target["lanes"]) == {"npu", "cpu"}
    assert made["speculation"]["k"] == 3
    assert made["decode_rate"] == made["speculation"]["rate"]
    assert [row["holds"] for row in made["requires"]] == [True, True]
    assert made["compile"]["memory"] > 0


def test_lines_that_cannot_hold_are_exit_3(plan, capsys):
    assert main(["estimate", str(plan("decode.rate >= 1000000 tok/s  peak_memory <= 1 KB"))]) == 3
    said = capsys.readouterr().out
    assert said.count("does not hold") == 2


def test_a_compile_is_refused_before_it_starts(plan, capsys, tmp_path):
    assert main(["compile", str(plan("prefill.rate >= 1000000000 tok/s")), "-o", str(tmp_path / "b"), "--quiet"]) == 3
    assert "E0950" in capsys.readouterr().err
    assert not list(tmp_path.glob("b*"))


def test_too_little_memory_names_the_line(plan, golden_error, tmp_path):
    checked = load_plan(plan())
    with pytest.raises(PlanError) as raised:
        within_memory(checked, estimate_plan(checked), 100_000_000)
    golden_error("E0962", raised.value, checked.sources, {str(tmp_path): "TMP"})


def test_a_device_without_a_bandwidth_has_bytes_and_no_rates(plan, capsys, tmp_path):
    path = tmp_path / "host.edge"
    path.write_text(
        f'device host\nmodel m {{ source = hf("{MODELS}/pycode-qwen2")  context = 64 }}\ndeploy m on cpu as ort\n'
    )
    assert main(["estimate", str(path), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["decode_rate"] is None
    assert made["models"]["m"]["bytes_per_token"] > 0


def test_a_size_that_is_none_is_a_mistake_of_usage(plan, capsys):
    with pytest.raises(SystemExit) as left:
        main(["estimate", str(plan()), "--memory", "16"])
    assert left.value.code == 2
    assert "write e.g. `5GiB`" in capsys.readouterr().err
