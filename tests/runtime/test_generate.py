"""Running real bundles: speculation gives the target's own text, and what cannot run says why."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.oracle.oracle import DecoderOracle
from edgec.compiler.runtime.generate import Runner, choose_model, run_bundle
from edgec.compiler.runtime.plain_graph import run_graph
from edgec.compiler.runtime.sample import Sampling
from edgec.compiler.sources.hf.hf_source import HfSource
from edgec.compiler.sources.hf.load_hf import load_hf
from edgec.compiler.sources.origin import find

PROMPTS = ["def mean(values):\n", "import os\n\nclass Cache:\n    def __init__(self, ", "for", "x"]

pytestmark = pytest.mark.slow


def code(caught) -> str:
    return caught.value.diagnostics[0].code


@pytest.fixture(scope="module")
def runner(pair):
    runner = Runner(pair)
    yield runner
    runner.close()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_speculation_gives_the_targets_own_tokens(runner, prompt):
    ids = runner.tokenizer.encode(prompt)
    together = runner.generate(ids, 40)
    alone = runner.generate(ids, 40, speculation=False)
    assert together["tokens"] == alone["tokens"]
    assert together["text"] == alone["text"]
    assert (alone["rounds"], alone["drafted"], alone["accepted"]) == (len(alone["tokens"]), 0, 0)
    assert together["rounds"] + together["accepted"] == len(together["tokens"])
    assert together["drafted"] >= together["accepted"]
    assert together["prompt_tokens"] == len(ids)


def test_the_baseline_goes_through_the_same_bucket(runner):
    ids = runner.tokenizer.encode(PROMPTS[0])
    seen = []
    engine = runner.engine("target")
    call = engine.call
    engine.call = lambda ids, bucket: (seen.append(bucket), call(ids, bucket))[1]
    try:
        runner.generate(ids, 6, speculation=False)
        alone, seen[:] = set(seen), []
        runner.generate(ids, 6)
        assert alone == set(seen) == {"t4_c128"}
        runner.generate(ids, 6, speculation=False, bucket_tokens=1)
        assert seen[-6:] == ["t1_c128"] * 6
    finally:
        del engine.call


@pytest.mark.parametrize(
    "extra", [{"tree": 10}, {"tree": 10, "source": "prompt"}, {"tree": 10, "overlap": {}}], ids=str
)
def test_trees_give_the_targets_own_tokens(runner, extra, monkeypatch):
    """The pair's buckets hold a tree too: through 64 slots, and over the border of the small context."""
    entry = {key: value for key, value in runner.manifest.speculation.items() if key != "source"}
    monkeypatch.setitem(runner.manifest.data, "speculation", entry | {"tree": 10} | extra)
    ids = runner.tokenizer.encode("def f(a, b):\n    return a + b\n" * 7)
    made = runner.generate(ids, 50)
    assert made["tokens"] == runner.generate(ids, 50, speculation=False)["tokens"]
    assert made["accepted"] + made["rounds"] == 50
    assert ("ready" in made) == ("overlap" in extra)
    assert "ready" not in runner.generate(ids, 2, overlap=False)


def test_a_text_longer_than_the_small_context(runner):
    """More than 128 positions: the cache moves into the bucket of 512."""
    ids = runner.tokenizer.encode("def f(a, b):\n    return a + b\n" * 9)
    assert 90 < len(ids) < 128
    assert runner.generate(ids, 60)["tokens"] == runner.generate(ids, 60, speculation=False)["tokens"]


def test_one_dynamic_model_equals_its_oracle(runner, pair):
    """The draft is float32 in one dynamic graph: token for token the module itself."""
    source = find("draft", runner.manifest.inputs["draft"], HfSource())
    assert source is not None
    ids = runner.tokenizer.encode(PROMPTS[0])
    made = run_bundle(pair, PROMPTS[0], 24, model="draft")["tokens"]
    oracle, text = DecoderOracle(load_hf("draft", source, 512)), list(ids)
    row = oracle.forward(text)[-1]
    for _ in made:
        text.append(int(np.argmax(row)))
        row = oracle.forward(text[-1:])[-1]
    assert text[len(ids) :] == made


def test_sampling_depends_on_the_seed_alone(runner):
    ids = runner.tokenizer.encode(PROMPTS[1])
    sampling = Sampling(0.9, top_p=0.95)
    first, again, other = (runner.generate(ids, 20, sampling=sampling, seed=seed)["tokens"] for seed in (1, 1, 2))
    assert first == again != other


def test_the_stream_is_the_text(pair):
    pieces = []
    result = run_bundle(pair, PROMPTS[0], 20, stream=pieces.append)
    assert "".join(pieces) == result["text"]
    assert len(pieces) > 4
    assert set(json.loads(json.dumps(result))) >= {"text", "tokens", "prompt_tokens", "rounds", "drafted", "accepted"}


def test_the_context_ends_the_text(runner):
    ids = (runner.tokenizer.encode("a = 1\n") * 300)[:508]
    made = runner.generate(ids, 20)
    assert (len(made["tokens"]), made["stopped"]) == (5, "context")
    assert made["tokens"] == runner.generate(ids, 20, speculation=False)["tokens"]


def test_a_prompt_longer_than_the_context(pair, golden_error):
    with pytest.raises(PlanError) as caught:
        run_bundle(pair, "x = 1\n" * 400, 5)
    golden_error("E0912", caught.value)


def test_an_empty_prompt(pair, golden_error):
    with pytest.raises(PlanError) as caught:
        run_bundle(pair, "", 5)
    golden_error("E0913", caught.value)


def test_a_damaged_file_is_not_loaded(pair, tmp_path):
    broken = tmp_path / "bundle"
    shutil.copytree(pair, broken)
    with (broken / "target" / "ort.data").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(PlanError, match=r"ort\.data` has 1000 bytes") as caught:
        run_bundle(broken, "x", 5)
    assert code(caught) == "E0905"


def test_a_flipped_byte_is_not_run(pair, tmp_path):
    broken = tmp_path / "bundle"
    shutil.copytree(pair, broken)
    raw = bytearray((broken / "target" / "ort.data").read_bytes())
    raw[len(raw) // 2] ^= 0x10
    (broken / "target" / "ort.data").write_bytes(raw)
    with pytest.raises(PlanError, match=r"target/ort\.data` has been changed") as caught:
        run_bundle(broken, "x", 5)
    assert code(caught) == "E0905"


def test_no_chat_template(pair, golden_error):
    with pytest.raises(PlanError) as caught:
        run_bundle(pair, "x", 5, chat=True)
    golden_error("E0920", caught.value, hide={str(pair): "BUNDLE"})


def test_arrays_into_a_language_model_are_refused(pair, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros(3))
    with pytest.raises(PlanError) as caught:
        run_graph(pair, tmp_path / "x.npz", model="draft")
    assert code(caught) == "E0953"


def test_a_target_that_is_not_installed(pair, golden_error):
    runner = Runner(pair, "draft")
    runner.manifest.parts["draft.cpu0"]["target"] = "tpu"
    with pytest.raises(PlanError) as caught:
        runner.generate([1, 2], 3)
    golden_error("E0911", caught.value)


def test_several_models_without_a_pair(pair, golden_error):
    manifest = load_manifest(pair)
    manifest.data["speculation"] = None
    with pytest.raises(PlanError) as caught:
        choose_model(manifest, None)
    golden_error("E0914", caught.value, hide={str(pair): "BUNDLE"})
    assert choose_model(manifest, "draft") == "draft"


def test_defaults_of_sampling(pair):
    """Greedy unless asked for, or the plan says `accept = sample`: then the model's own defaults."""
    runner = Runner(pair)
    data = runner.manifest.data
    data["sampling"]["target"] = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}
    assert runner.sampling(None, None) == Sampling()
    assert runner.sampling(0.5, None) == Sampling(0.5)
    data["speculation"]["accept"] = "sample"
    assert runner.sampling(None, None) == Sampling(0.6, 0.95, 20)
    assert runner.sampling(None, 0.5) == Sampling(0.6, 0.5, 20)
    assert runner.sampling(0.0, None) == Sampling()
