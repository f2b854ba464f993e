"""A saved prefix gives the tokens that a run without it gives; one that is damaged or of another model is refused."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.memory.memory_plan import kv_held
from edgec.compiler.runtime import prefix
from edgec.compiler.runtime.chain import ChainModel
from edgec.compiler.runtime.generate import Runner
from edgec.compiler.runtime.language_model import feed

CONTEXT = 64
STATIC = [(1, 16), (4, 16), (8, 16), (1, 64), (4, 64), (8, 64)]
LAYOUTS = ["ort", "qnn", "mixed"]


@pytest.fixture
def ids():
    return np.random.default_rng(1).integers(0, 61, 40).tolist()


@pytest.fixture
def saved(toy, ids, tmp_path):
    """A bundle, and the file with the K/V of 22 tokens, which lie in two contexts."""

    def make(layout="ort"):
        bundle, path = toy(layout, STATIC), tmp_path / "system.kv"
        model = ChainModel(bundle.manifest, "toy", bundle.open)
        feed(model, ids[:22])
        prefix.save(path, bundle.manifest, {"toy": model}, ids[:22])
        return bundle, path, model

    return make


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_follows_is_what_follows_without_it(saved, ids, layout):
    bundle, path, model = saved(layout)
    expected = model.forward(ids[22:30])
    loaded = ChainModel(bundle.manifest, "toy", bundle.open)
    assert prefix.load(path, bundle.manifest, {"toy": loaded}, ids[:30]) == 22
    assert np.array_equal(loaded.forward(ids[22:30]), expected)
    loaded.rollback(3)
    model.rollback(3)
    assert np.array_equal(loaded.forward(ids[3:9]), model.forward(ids[3:9]))


def test_a_prompt_takes_as_much_as_it_begins_with(saved, ids):
    bundle, path, model = saved()
    other = [*ids[:9], (ids[9] + 1) % 61, *ids[10:30]]
    loaded = ChainModel(bundle.manifest, "toy", bundle.open)
    assert prefix.load(path, bundle.manifest, {"toy": loaded}, other) == 9
    model.reset()
    model.forward(ids[:9])
    assert np.allclose(loaded.forward(other[9:12]), model.forward(other[9:12]), atol=1e-4)
    assert prefix.load(path, bundle.manifest, {"toy": loaded}, ids[:22]) == 21  # the last token is computed
    assert prefix.load(path, bundle.manifest, {"toy": loaded}, ids[:1]) == 0


def test_what_was_saved_with_a_draft_serves_without_it(saved, ids, tmp_path):
    bundle, path, model = saved()
    manifest = copy.deepcopy(bundle.manifest)
    manifest.data["models"]["draft"] = copy.deepcopy(manifest.data["models"]["toy"])
    both = tmp_path / "both.kv"
    prefix.save(both, manifest, {"toy": model, "draft": model}, ids[:22])
    loaded, draft = (ChainModel(bundle.manifest, "toy", bundle.open) for _ in range(2))
    assert prefix.load(both, manifest, {"toy": loaded}, ids) == 22
    assert prefix.load(path, manifest, {"toy": loaded, "draft": draft}, ids) == 22  # the draft begins anew
    assert (loaded.length, draft.length) == (22, 0)


def test_every_changed_byte_is_refused(saved, ids):
    bundle, path, _ = saved()
    data = path.read_bytes()
    loaded = ChainModel(bundle.manifest, "toy", bundle.open)
    header = 8 + int.from_bytes(data[:8], "little")
    places = [0, 7, 8, 30, header // 2, header - 1, header, header + 1000, len(data) - 1]
    damaged = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in places]
    for wrong in (*damaged, data[:-1], data + b"\0", data[: len(data) // 2], b"", b"{}"):
        path.write_bytes(wrong)
        with pytest.raises(PlanError) as raised:
            prefix.load(path, bundle.manifest, {"toy": loaded}, ids)
        assert raised.value.diagnostics[0].code == "E0925"
        assert loaded.length == 0


def test_another_model_s_is_refused(saved, ids, golden_error, tmp_path):
    bundle, path, _ = saved()
    other = copy.deepcopy(bundle.manifest)
    next(iter(other.data["parts"].values()))["file"] = "toy/other.onnx"
    loaded = ChainModel(bundle.manifest, "toy", bundle.open)
    with pytest.raises(PlanError) as raised:
        prefix.load(path, other, {"toy": loaded}, ids)
    golden_error("E0925", raised.value, hide={str(tmp_path): "TMP"})


def test_a_file_that_promises_more_than_it_has_reads_nothing(saved, ids):
    """A header with other shapes than the model's is refused before anything is allocated."""
    bundle, path, _ = saved()
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = next(key for key in header if key != "__metadata__")
    header[name]["shape"] = [3, 1 << 40, 8]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(PlanError):
        prefix.load(path, bundle.manifest, {"toy": ChainModel(bundle.manifest, "toy", bundle.open)}, ids)


@pytest.mark.parametrize(("layout", "width"), [("ort", 4), ("qnn", 2)])
def test_the_runner_holds_the_cache_that_is_planned(toy, toy_module, ids, layout, width):
    """Every position once, and the copy that the bucket in use reads: within 5 % of the plan."""
    bundle = toy(layout, STATIC)
    model = ChainModel(bundle.manifest, "toy", bundle.open)
    model.forward(ids)
    most = 0
    for at in range(len(ids), CONTEXT - 8):
        model.forward([at % 61])
        most = max(most, model.cache.nbytes)
    planned = kv_held(toy_module.arch, CONTEXT, [c - t for t, c in STATIC], width)
    assert most == pytest.approx(planned, rel=0.05)


def test_an_engine_that_keeps_its_cache_has_no_prefix(golden_error, tmp_path):
    runner = Runner.__new__(Runner)
    runner.model, runner._open = "chat", {"chat": object()}
    with pytest.raises(PlanError) as raised:
        runner._prefixed(tmp_path / "p.kv", [1, 2], None)
    golden_error("E0926", raised.value)
