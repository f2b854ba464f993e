"""`edgec init`: the plan it writes holds, says why and is never written over another; what is wrong with a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import edgec
import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.first_plan.bounds import _exact, _written
from edgec.compiler.first_plan.written_plan import plan_name

ROOT = Path(__file__).resolve().parents[2]
QWEN3, QWEN2 = (ROOT / "examples" / "models" / name for name in ("pycode-qwen3", "pycode-qwen2"))
TEXTS = [ROOT / "examples" / "text" / name for name in ("calibration.txt", "modules.txt")]
GRAPH = ROOT / "tests" / "errors" / "files" / "graph.onnx"


def targets(made: edgec.FirstPlan) -> list[str]:
    return [f"{one.model} on {one.device} as {one.target}" for one in made.plan.deploys]


def test_the_plan_of_a_cpu_holds_and_compiles(tmp_path: Path) -> None:
    made = edgec.init(QWEN2, tmp_path / "plan.edge", context=128)
    assert targets(made) == ["llm on cpu as mnn"]
    assert (tmp_path / "plan.edge").read_text() == made.text
    assert edgec.check(tmp_path / "plan.edge").ok
    result = edgec.compile(tmp_path / "plan.edge", tmp_path / "out")
    assert [row["holds"] for row in result.measured.requires] == [True, True]


def every_line_says_why(made: edgec.FirstPlan) -> None:
    lines = [line.strip() for line in made.text.splitlines() if line.strip() not in ("", "}")]
    blocks = [at for at, line in enumerate(lines) if not line.startswith("#")]
    without = [lines[at] for at in blocks if not lines[at - 1].startswith("#") and not lines[at].endswith("{")]
    assert without == []
    assert len(blocks) > 10


def test_a_text_means_gptq_with_integer_activations_on_an_npu(tmp_path: Path) -> None:
    made = edgec.init(QWEN3, tmp_path / "plan.edge", device="sm8650", texts=TEXTS)
    assert targets(made) == ["llm on npu as qnn"]
    assert "method = gptq, activations = uint16" in made.text
    assert made.plan.evaluation is not None  # the last text is kept back
    assert [path.name for path in made.plan.evaluation.text] == ["modules.txt"]
    assert made.plan.calibration is not None
    assert [path.name for path in made.plan.calibration.text] == ["calibration.txt"]
    assert {line.subject for line in made.plan.requires} == {
        "bundle.size",
        "peak_memory",
        "decode.rate",
        "llm.perplexity",
    }
    every_line_says_why(made)


def test_without_a_text_nothing_is_solved_on_one(tmp_path: Path) -> None:
    made = edgec.init(QWEN3, tmp_path / "plan.edge", device="sm8650")
    assert targets(made) == ["llm on npu as qnn"]
    assert made.plan.calibration is None
    assert "weights = int8" in made.text
    every_line_says_why(made)
    assert "gptq" not in "".join(line for line in made.text.splitlines() if not line.strip().startswith("#"))


def test_little_memory_takes_fewer_bits_then_a_shorter_cache(tmp_path: Path) -> None:
    made = edgec.init(QWEN3, tmp_path / "plan.edge", memory=11_000_000)
    assert ("int4" in made.text, made.plan.defines["ctx"]) == (True, 2048)
    assert any("it needs" in line for line in made.tried)
    made = edgec.init(QWEN2, tmp_path / "plan.edge", memory=1_600_000, force=True)
    assert made.plan.defines["ctx"] < 2048
    assert "peak_memory <= 1600 KB" in made.text


def test_too_little_memory_says_what_the_smallest_needs(tmp_path: Path, golden_error) -> None:
    with pytest.raises(PlanError) as raised:
        edgec.init(QWEN3, tmp_path / "plan.edge", memory=1_000_000, context=256)
    golden_error("E0981", raised.value, hide={str(QWEN3): "MODEL"})
    assert not (tmp_path / "plan.edge").exists()


def test_a_draft_makes_a_pair(tmp_path: Path) -> None:
    made = edgec.init(QWEN3, tmp_path / "plan.edge", device="sm8650", draft=QWEN2)
    assert targets(made) == ["target on npu as qnn", "draft on cpu as mnn"]
    assert "speculate draft -> target { k = auto }" in made.text


def test_a_draft_with_another_tokenizer_is_refused_at_once(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(QWEN2, other)
    facts = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = facts["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (other / "tokenizer.json").write_text(json.dumps(facts), encoding="utf-8")
    said: list[str] = []
    with pytest.raises(PlanError) as raised:
        edgec.init(QWEN3, tmp_path / "plan.edge", draft=other, progress=said.append)
    assert raised.value.diagnostics[0].code == "E0308"
    assert len(said) <= 3


def test_a_model_of_few_positions_gets_windows_and_buckets_that_fit(tmp_path: Path) -> None:
    shutil.copytree(QWEN2, tmp_path / "short")
    config = json.loads((tmp_path / "short" / "config.json").read_text())
    (tmp_path / "short" / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 64}))
    made = edgec.init(tmp_path / "short", tmp_path / "plan.edge", device="sm8650", texts=TEXTS)
    assert targets(made) == ["llm on npu as qnn"]
    assert "bucket (tokens = [1, 32], context = [ctx])" in made.text
    assert made.plan.calibration is not None
    assert (made.plan.calibration.length, made.plan.evaluation) == (64, None)


def test_what_the_npu_and_mnn_refuse_goes_to_onnx_runtime(tmp_path: Path) -> None:
    """A window of attention shorter than the context: of all targets only ONNX Runtime takes it."""
    shutil.copytree(QWEN2, tmp_path / "window")
    config = json.loads((tmp_path / "window" / "config.json").read_text())
    own = {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 0, "layer_types": None}
    (tmp_path / "window" / "config.json").write_text(json.dumps({**config, **own}))
    made = edgec.init(tmp_path / "window", tmp_path / "plan.edge", device="sm8650", context=64)
    assert targets(made) == ["llm on cpu as ort"]
    assert {line.split(" as ")[1].split()[0].rstrip(",") for line in made.tried} == {"qnn", "mnn"}


def test_a_plain_graph_goes_to_the_cpu_in_floats(tmp_path: Path) -> None:
    made = edgec.init(GRAPH, tmp_path / "plan.edge")
    assert targets(made) == ["net on cpu as mnn"]
    assert made.plan.pipelines == {}


def test_a_folder_with_one_model_file_is_that_model(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    shutil.copy(GRAPH, tmp_path / "net" / "a.onnx")
    made = edgec.init(tmp_path / "net", tmp_path / "plan.edge")
    assert 'onnx("net/a.onnx")' in made.text  # relative: it lies beside the plan
    shutil.copy(GRAPH, tmp_path / "net" / "b.onnx")
    with pytest.raises(PlanError, match="2 model files"):
        edgec.init(tmp_path / "net", tmp_path / "other.edge")


def test_a_hub_id_says_how_to_download_it(tmp_path: Path, golden_error, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlanError) as raised:
        edgec.init("Qwen/Qwen3-0.6B")
    golden_error("E0980", raised.value)


@pytest.mark.parametrize("name", ["nosuch.gguf", "nosuch", "."])
def test_no_model_is_told(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlanError) as raised:
        edgec.init(name)
    assert raised.value.diagnostics[0].code == "E0980"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["pycode-qwen3/model.safetensors", "pycode-qwen3/config.json", "."])
def test_a_file_of_a_model_and_a_folder_of_models_lead_to_one(name: str) -> None:
    with pytest.raises(PlanError) as raised:
        edgec.init(QWEN3.parent / name)
    found = "pycode-qwen2" if name == "." else "pycode-qwen3"
    assert f"`edgec init {QWEN3.parent / found}`" in (raised.value.diagnostics[0].help or "")


@pytest.mark.parametrize(("name", "meant"), [("sm865", "sm8650"), ("snapdragon_8_gen_33", "snapdragon_8_gen_3")])
def test_a_part_number_is_a_name_of_a_device_too(name: str, meant: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError) as raised:
        edgec.init(QWEN3, tmp_path / "plan.edge", device=name)
    assert f"`{meant}`" in (raised.value.diagnostics[0].help or "")


def test_a_mistake_that_no_form_mends_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(PlanError) as raised:
        edgec.init(QWEN3, tmp_path / "plan.edge", context=99_999)
    assert raised.value.diagnostics[0].code == "E0338"
    with pytest.raises(PlanError) as raised:
        edgec.init(QWEN3, tmp_path / "plan.edge", texts=["nofile.txt"])
    assert raised.value.diagnostics[0].code == "E0450"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "plan.edge").write_text("mine")
    with pytest.raises(PlanError) as raised:
        edgec.init(QWEN3, tmp_path / "plan.edge", device="sm9999x", draft="nosuch", texts=["nofile.txt"])
    assert [one.code for one in raised.value.diagnostics] == ["E0982", "E0103", "E0980", "E0450"]


@pytest.mark.parametrize("texts", [[], TEXTS[:1]])
def test_a_form_that_phones_are_reported_to_run_comes_first(tmp_path: Path, texts: list[Path]) -> None:
    made = edgec.init(QWEN3, tmp_path / "plan.edge", device="sm8650", texts=texts)
    assert [one.code for one in made.warnings] == []
    assert ("gptq" in made.text) == bool(texts)


def test_a_form_that_was_passed_over_says_why(tmp_path: Path) -> None:
    """For this chip nobody reports LPBQ, and the model went to the CPU without a word."""
    made = edgec.init(QWEN3, tmp_path / "plan.edge", device="sm8750", texts=TEXTS[:1])
    assert made.plan.deploys[0].device == "cpu"
    assert any("on npu as qnn in 4 bits" in line and "no phone with a v79 NPU" in line for line in made.tried)


def test_a_file_is_written_over_only_when_told(tmp_path: Path, golden_error, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.edge").write_text("mine")
    with pytest.raises(PlanError) as raised:
        edgec.init(GRAPH)
    golden_error("E0982", raised.value)
    assert Path("plan.edge").read_text() == "mine"
    assert main(["init", str(GRAPH)]) == 1
    assert main(["init", str(GRAPH), "--force"]) == 0
    assert "plan graph" in Path("plan.edge").read_text()
    assert main(["init", str(GRAPH), "-o", "no/such/plan.edge"]) == 1
    assert "mkdir -p no/such" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["plan.edge"]


def test_names_and_sizes_are_written_as_a_plan_has_them() -> None:
    assert plan_name(Path("models/Qwen3-0.6B")) == "qwen3_0_6b"
    assert plan_name(Path("models/7b")) == "model_7b"
    assert [_exact(size) for size in (3 * 10**9, 1 << 30, 5_000_000, 1234)] == ["3 GB", "1 GiB", "5 MB", "1234 B"]
    assert [_written(size) for size in (7_900_000, 123_400_000, 400)] == ["8 MB", "130 MB", "1 MB"]
