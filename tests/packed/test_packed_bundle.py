"""`store = packed`: the bundle is smaller, runs as it is, and unpacks to the bytes of the dense one."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import edgec
import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.packed.packed_bundle import READER

ROOT = Path(__file__).resolve().parents[2]
PLAN = """
plan packed
device snapdragon_8_gen_3
model small {{ source = hf("{models}/pycode-qwen2")  context = 128 }}
pipeline p {{
  sparsify (pattern = {pattern})  except {dense}
  quantize (weights = int4, block = 32{zeros})
}}
deploy small on cpu through p as {target} {{ store = {store} }}
"""
ENGINES = {"mnn": "small/llm.mnn.weight", "ort": "small/ort.data"}


def plan(
    target: str, store: str, zeros: str = "", pattern: str = "2:4", dense: str = '["lm_head", "embed_tokens"]'
) -> str:
    models = ROOT / "examples" / "models"
    return PLAN.format(models=models, target=target, store=store, zeros=zeros, pattern=pattern, dense=dense)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Engine and store -> a bundle; MNN's has zero points."""
    folder, made = tmp_path_factory.mktemp("bundles"), {}
    for target, zeros in (("mnn", ", symmetric = false"), ("ort", "")):
        for store in ("dense", "packed"):
            made[target, store] = folder / f"{target}-{store}"
            edgec.compile(plan(target, store, zeros), made[target, store])
    return made


Bundles = dict[tuple[str, str], Path]


@pytest.mark.parametrize("target", ENGINES)
def test_unpacked_files_are_the_dense_bundles(bundles: Bundles, target: str, tmp_path: Path) -> None:
    dense, packed = bundles[target, "dense"], bundles[target, "packed"]
    made = edgec.unpack(packed, tmp_path / "again")
    files = {name: entry["sha256"] for name, entry in made.manifest["files"].items() if name != "report.html"}
    expected = edgec.open(dense).manifest
    assert files == {name: row["sha256"] for name, row in expected["files"].items() if name != "report.html"}
    for key in ("models", "parts", "memory"):
        found = json.dumps(made.manifest[key], sort_keys=True).replace('"store": "packed"', '"store": "dense"')
        assert found == json.dumps(expected[key], sort_keys=True), key


@pytest.mark.parametrize("target", ENGINES)
def test_the_packed_bundle_says_what_it_is(bundles: Bundles, target: str) -> None:
    packed, file = edgec.open(bundles[target, "packed"]).manifest, ENGINES[target]
    entry = packed["packed"]["files"][file]
    assert file not in packed["files"]
    assert entry["size"] > packed["files"][entry["file"]]["size"]
    integers = entry["integers"]
    assert integers["packed"] / integers["dense"] < (0.75 if target == "mnn" else 0.70)
    rows = [row for row in packed["models"]["small"]["weights"] if "packed" in row]
    assert len(rows) == entry["tensors"] > 0
    assert {row["facts"]["edgec.sparsity"] for row in rows} == {"2:4"}


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("store", ["dense", "packed"])
def test_what_it_buys_is_said(bundles: Bundles, target: str, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = edgec.inspect(bundles[target, store])["models"]["small"]["sparse"]
    held = row["bytes"]
    assert (row["pattern"], row["form"], row["speed"], row["weights"]) == ("2:4", store, "none", 14)
    assert held["token"] == held["dense"]
    assert (held["disk"] < held["dense"]) is (store == "packed")
    assert "What sparsity buys" in (bundles[target, store] / "report.html").read_text()
    assert main(["inspect", str(bundles[target, store])]) == 0
    assert f"disk: {held['disk']}" in capsys.readouterr().out


def test_symmetric_int4_in_blocks_takes_at_most_079(bundles: Bundles) -> None:
    rows = [r for r in edgec.open(bundles["ort", "packed"]).manifest["models"]["small"]["weights"] if "packed" in r]
    assert sum(row["packed"] for row in rows) <= 0.75 * sum(row["bytes"] for row in rows)


@pytest.mark.parametrize("target", ENGINES)
def test_a_packed_bundle_runs_like_the_dense_one(bundles: Bundles, target: str) -> None:
    texts = []
    for store in ("dense", "packed"):
        with edgec.open(bundles[target, store]) as bundle:
            assert bundle.packed is (store == "packed")
            texts.append(bundle.generate("def mean(values):", 8).tokens)
    assert texts[0] == texts[1]


def test_verify_restores_first(bundles: Bundles) -> None:
    found = edgec.open(bundles["ort", "packed"]).verify()
    assert found.parts["small.cpu0"]["emission"] < 2e-3
    assert not [problem for problem in found.problems if "relative" not in problem]


def test_unpack_in_place_by_the_command(bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = shutil.copytree(bundles["ort", "packed"], tmp_path / "own")
    assert main(["unpack", str(own), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bytes"] == sum(row["size"] for row in edgec.open(own).manifest["files"].values())
    assert not (own / READER).exists()
    assert (own / ENGINES["ort"]).read_bytes() == (bundles["ort", "dense"] / ENGINES["ort"]).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    assert main(["unpack", str(own)]) == 1


def test_the_shipped_reader_restores_a_real_file(bundles: Bundles, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    bundle = bundles["mnn", "packed"]
    subprocess.run([compiler, "-O2", "-o", tmp_path / "unpack", bundle / READER], check=True)
    packed = bundle / f"{ENGINES['mnn']}.packed"
    subprocess.run([tmp_path / "unpack", packed, tmp_path / "weights"], check=True)
    assert (tmp_path / "weights").read_bytes() == (bundles["mnn", "dense"] / ENGINES["mnn"]).read_bytes()


def test_a_damaged_bundle_is_not_touched(bundles: Bundles, tmp_path: Path) -> None:
    own = shutil.copytree(bundles["ort", "packed"], tmp_path / "own")
    packed = own / f"{ENGINES['ort']}.packed"
    data = bytearray(packed.read_bytes())
    data[-5000] ^= 1
    packed.write_bytes(data)
    for output in (None, tmp_path / "other"):
        with pytest.raises(EdgecError) as raised:
            edgec.unpack(own, output)
        assert raised.value.diagnostics[0].code == "E0905"
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    assert packed.read_bytes() == data


@pytest.mark.parametrize("name", ["manifest.json", "report.html", "small/ort.data.packed", "small", "report.html/x"])
def test_a_packed_file_takes_nobodys_place(bundles: Bundles, name: str, tmp_path: Path) -> None:
    own = shutil.copytree(bundles["ort", "packed"], tmp_path / "own")
    data = json.loads((own / "manifest.json").read_text())
    data["packed"]["files"] = {name: data["packed"]["files"][ENGINES["ort"]]}
    raw = json.dumps(data).encode()
    (own / "manifest.json").write_bytes(raw)
    (own / "manifest.sha256").write_text(f"{hashlib.sha256(raw).hexdigest()}  manifest.json\n")
    with pytest.raises(EdgecError) as raised:
        edgec.unpack(own, tmp_path / "other")
    assert raised.value.diagnostics[0].code == "E0902"
    assert "is to be restored where something else is" in raised.value.diagnostics[0].message
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_nothing_to_unpack(bundles: Bundles, golden_error: object, tmp_path: Path) -> None:
    own = shutil.copytree(bundles["ort", "dense"], tmp_path / "own")
    with pytest.raises(EdgecError) as raised:
        edgec.unpack(own)
    golden_error("E0909", raised.value, hide={str(tmp_path): "TMP"})


@pytest.mark.parametrize("target", ENGINES)
def test_the_check_refuses_where_nothing_is_sparse(target: str, golden_error: object) -> None:
    text = plan(target, "packed").replace('  sparsify (pattern = 2:4)  except ["lm_head", "embed_tokens"]\n', "")
    found = edgec.check(text)
    golden_error("E0222", found.errors, hide={"mnn": "ort"})
    floats = plan(target, "packed").replace("  quantize (weights = int4, block = 32)\n", "")
    assert [one.code for one in edgec.check(floats).errors] == ["E0222"]
    assert not edgec.check(plan(target, "packed")).errors
    (rotated,) = edgec.check(plan(target, "packed").replace("  quantize", "  rotate ()\n  quantize", 1)).errors
    assert (rotated.code, "rotation ends 2:4 on `layers.0." in rotated.message) == ("E0222", True)


@pytest.mark.parametrize(("store", "codes"), [("dense", {"W0309"}), ("packed", set())])
def test_pairs_have_a_use_in_a_packed_file(store: str, codes: set[str]) -> None:
    found = edgec.check(plan("ort", store, pattern="pairs"))
    assert {one.code for one in found.warnings} & {"W0309"} == codes


def test_npu_binaries_have_no_such_option() -> None:
    text = plan("mnn", "packed").replace("on cpu", "on npu").replace("as mnn", "as qnn")
    found = edgec.check(text.replace("block = 32)", "block = 32)\n  bucket (tokens = [1], context = [128])")).errors
    assert "sparse_store" in str(found[0])
