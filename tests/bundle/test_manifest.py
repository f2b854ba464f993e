"""The manifest follows its published schema, and who reads it learns what is wrong with it."""

from __future__ import annotations

import json
import os
import time

import pytest
from edgec.compiler.bundle.file_hashes import check_files
from edgec.compiler.bundle.manifest import (
    MANIFEST,
    SEAL,
    load_manifest,
    problems,
    schema,
    write_manifest,
)
from edgec.compiler.diagnostics.diagnostic import EdgecError, PlanError
from edgec.compiler.files import cache
from edgec.compiler.files import noted_digest as intact
from jsonschema import Draft202012Validator


def reseal(bundle, change):
    """Edit the manifest and its seal, as somebody would who knows how."""
    import hashlib

    data = json.loads((bundle / MANIFEST).read_text())
    change(data)
    raw = json.dumps(data).encode()
    (bundle / MANIFEST).write_bytes(raw)
    (bundle / SEAL).write_text(hashlib.sha256(raw).hexdigest())


def code(error: EdgecError) -> str:
    return error.diagnostics[0].code


def test_the_schema_is_one():
    Draft202012Validator.check_schema(schema())
    assert schema()["$schema"].endswith("2020-12/schema")


def test_what_is_written_is_read_back(tmp_path, make, data):
    make(tmp_path / "demo")
    manifest = load_manifest(tmp_path / "demo")
    check_files(manifest)
    assert manifest.files.keys() == {"m/cpu0.onnx", "report.html"}
    data["parts"]["m.cpu0"]["graphs"]["main"]["inputs"] = [
        {"name": "x", "dtype": "float32", "shape": [1, "N"], "source": "feed"}  # said by who writes the manifest
    ]
    assert {key: manifest.data[key] for key in data} == data
    assert manifest.parts_of("m") == ["m.cpu0"]
    assert manifest.part("m.cpu0")["name"] == "m.cpu0"
    assert manifest.buckets("m")[0]["parts"] == ["m.cpu0"]
    assert manifest.tokenizer("m") is None
    raw = (tmp_path / "demo" / MANIFEST).read_text()
    assert raw == json.dumps(json.loads(raw), indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("models", "m", "kind"), "decodre", "$.models.m.kind"),
        (("models", "m", "surprise"), 1, "surprise"),
        (("parts", "m.cpu0", "file"), "../../etc/passwd", "$.parts['m.cpu0'].file"),
        (("parts", "m.cpu0", "file"), "/etc/passwd", "$.parts['m.cpu0'].file"),
        (("plan", "sha256"), "abc", "$.plan.sha256"),
        (("memory", "m", "weights"), -1, "$.memory.m.weights"),
        (("devices",), [], "$.devices"),
        (("models", "m", "buckets", 0, "parts"), ["gone"], "needs a graph of part `gone` that is not there"),
        (("models", "m", "buckets", 0, "name"), "t1_c8", "bucket `t1_c8` of `m` needs a graph of part `m.cpu0`"),
        (("models", "m", "buckets", 0, "schedule"), {"lanes": {"cpu": []}, "edges": []}, "lanes.cpu"),
        (("models", "m", "buckets", 0, "schedule"), {"lanes": {"cpu": ["n"]}, "edges": []}, "lanes do not hold each"),
        (("models", "m", "tokenizer"), "gone", "names the tokenizer `gone`"),
        (("models", "m", "kind"), "decoder", "is a decoder without `arch`"),
        (("parts", "m.cpu0", "model"), "gone", "belongs to a model `gone`"),
        (("speculation",), {"draft": "d", "target": "m", "k": 3, "accept": "greedy"}, "draft of the speculation, `d`"),
    ],
)  # fmt: skip
def test_departures_are_named(data, path, value, told):
    whole = {**data, "format": "edgec.bundle", "version": 1, "files": {}}
    assert problems(whole) == []
    place = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    found = problems(whole)
    assert len(found) >= 1
    assert any(told in problem for problem in found), found


def test_edgec_does_not_write_what_it_would_not_read(tmp_path, data):
    del data["models"]["m"]["engine"]
    with pytest.raises(ValueError, match="'engine' is a required property"):
        write_manifest(tmp_path, data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["nothing", "a file", "another directory", "another manifest"])
def test_not_a_bundle(tmp_path, golden_error, what):
    place = tmp_path / "demo"
    if what == "a file":
        place.write_text("x")
    elif what != "nothing":
        place.mkdir()
    if what == "another manifest":
        (place / MANIFEST).write_text('{"format": "webapp"}')
    with pytest.raises(PlanError) as caught:
        load_manifest(place)
    assert code(caught.value) == "E0901"
    if what == "another directory":
        golden_error("E0901", caught.value, hide={str(tmp_path): "TMP"})


@pytest.mark.parametrize("raw", ["", "{", "[" * 100_000, '{"a": NaN'])
def test_not_json(tmp_path, raw):
    (tmp_path / MANIFEST).write_text(raw)
    with pytest.raises(PlanError, match="is not JSON") as caught:
        load_manifest(tmp_path)
    assert code(caught.value) == "E0902"


def test_not_the_schema(tmp_path, make, golden_error):
    make(tmp_path / "demo")
    reseal(tmp_path / "demo", lambda data: data["models"]["m"].pop("engine"))
    with pytest.raises(PlanError) as caught:
        load_manifest(tmp_path / "demo")
    golden_error("E0902", caught.value, hide={str(tmp_path): "TMP"})


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version(tmp_path, make, golden_error, version):
    make(tmp_path / "demo")
    reseal(tmp_path / "demo", lambda data: data.update(version=version, models="of the future"))
    with pytest.raises(PlanError) as caught:
        load_manifest(tmp_path / "demo")
    assert code(caught.value) == "E0903"
    if version == 2:
        golden_error("E0903", caught.value, hide={str(tmp_path): "TMP"})


@pytest.mark.parametrize("how", ["edited", "seal gone", "seal empty", "seal of another"])
def test_a_changed_manifest(tmp_path, make, golden_error, how):
    make(tmp_path / "demo")
    manifest, seal = tmp_path / "demo" / MANIFEST, tmp_path / "demo" / SEAL
    if how == "edited":
        manifest.write_text(manifest.read_text().replace('"ctx": 512', '"ctx": 513'))
    elif how == "seal gone":
        seal.unlink()
    else:
        seal.write_text("" if how == "seal empty" else "0" * 64)
    with pytest.raises(PlanError) as caught:
        load_manifest(tmp_path / "demo")
    assert code(caught.value) == "E0904"
    if how == "edited":
        golden_error("E0904", caught.value, hide={str(tmp_path): "TMP"})


@pytest.mark.parametrize("how", ["gone", "shorter", "longer", "flipped"])
def test_files_are_looked_at_before_an_engine_sees_them(tmp_path, make, golden_error, how):
    make(tmp_path / "demo")
    file = tmp_path / "demo" / "m" / "cpu0.onnx"
    if how == "gone":
        file.unlink()
    else:
        file.write_text({"shorter": "ab", "longer": "abcd", "flipped": "abb"}[how])
    manifest = load_manifest(tmp_path / "demo")
    with pytest.raises(PlanError, match=r"cpu0\.onnx") as caught:
        check_files(manifest)
    assert code(caught.value) == "E0905"
    if how == "shorter":
        golden_error("E0905", caught.value, hide={str(tmp_path): "TMP"})


def test_a_file_is_hashed_again_only_when_it_was_touched(tmp_path, make, monkeypatch):
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    hashed, digest_file = [], cache.digest_file
    monkeypatch.setattr(cache, "digest_file", lambda path: hashed.append(path.name) or digest_file(path))
    make(tmp_path / "demo")
    manifest = load_manifest(tmp_path / "demo")
    hashed.clear()
    check_files(manifest)
    check_files(manifest)
    assert hashed == ["cpu0.onnx", "report.html"] * 2  # so young that they can change within the clock's step
    monkeypatch.setattr(intact, "CLOCK_STEP", -1.0)
    check_files(manifest)
    hashed.clear()
    check_files(manifest)
    assert hashed == []
    file = tmp_path / "demo" / "m" / "cpu0.onnx"
    before = file.stat()
    time.sleep(0.02)  # of the file system's clock
    file.write_text("abb")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(PlanError, match=r"cpu0\.onnx` has been changed"):
        check_files(manifest)


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path, make, monkeypatch):
    make(tmp_path / "demo")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(intact, "CLOCK_STEP", -1.0)
    check_files(load_manifest(tmp_path / "demo"))


def test_an_unknown_model(tmp_path, make, golden_error):
    make(tmp_path / "demo")
    with pytest.raises(PlanError) as caught:
        load_manifest(tmp_path / "demo").model("tagret")
    golden_error("E0910", caught.value, hide={str(tmp_path): "TMP"})
