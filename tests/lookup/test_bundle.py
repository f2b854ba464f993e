"""A model with linears by lookup from plan to text."""

from __future__ import annotations

import json
from pathlib import Path

import edgec
import onnx_ir as ir
import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.diagnostics.warn import collected
from edgec.compiler.kernels.build import Built, library
from edgec.compiler.registry import find_target
from edgec.targets.ort import session

ROOT = Path(__file__).resolve().parents[2]
PLAN = """
plan looked_up
device {device}
model draft {{ source = hf("{model}")  context = 64 }}
pipeline p {{
  quantize (weights = {weights}, block = 32)  except ["embed_tokens", "lm_head"]
  {lookup}
}}
deploy draft on cpu through p as {target}
"""


def compiled(folder, lookup, device="host", target="ort", weights="int4", code=0):
    folder.mkdir()
    plan = folder / "plan.edge"
    model = ROOT / "examples" / "models" / "pycode-qwen2"
    words = {"lookup": lookup, "device": device, "target": target, "weights": weights, "model": model}
    plan.write_text(PLAN.format(**words))
    assert main(["compile", str(plan), "-o", str(folder / "bundle"), "--quiet"]) == code
    return folder / "bundle"


def text(bundle, capsys):
    capsys.readouterr()
    assert main(["run", str(bundle), "--prompt", "def add(a, b):", "--tokens", "12"]) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """By how tables are held; None: without lookup."""
    folder = tmp_path_factory.mktemp("lookup")
    lines = {None: "", "float32": "lut_gemv (when = always, tables = float32)", "int8": "lut_gemv (when = always)"}
    lines["fp16"] = "lut_gemv (when = always, tables = fp16)"
    return {name: compiled(folder / str(name), line) for name, line in lines.items()}


def details(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    (part,) = manifest["parts"].values()
    return manifest, part["details"]


@pytest.mark.skipif(library().path is None, reason="no kernels")
def test_float_tables_write_the_same_text(bundles, capsys):
    assert text(bundles["float32"], capsys) == text(bundles[None], capsys)


def test_the_bundle_says_and_holds_what_it_needs(bundles):
    for kind in ("float32", "fp16", "int8"):
        manifest, held = details(bundles[kind])
        assert (held["lookup"], held["kernels"]) == (kind, "draft/kernels")
        assert (bundles[kind] / "draft" / "kernels" / "plain.c").is_file()
        rows = {row["name"]: row for row in manifest["models"]["draft"]["weights"]}
        row = rows["layers.0.mlp.up_proj"]
        n, k = row["shape"]
        assert (row["dtype"], row["bits"]) == ("int4", 4)
        assert row["bytes"] == n * k // 2 + n * k // 32 * 2 + 1
    assert "lookup" not in details(bundles[None])[1]


def test_verify_holds_it_against_its_own_weights(bundles, capsys):
    for kind, bound in (("float32", 2e-3), ("fp16", 0.01), ("int8", 0.15)):
        part = json.loads((bundles[kind] / "manifest.json").read_text())["parts"]["draft.cpu0"]
        assert find_target("ort")().emission_bound(part) == bound
        main(["verify", str(bundles[kind]), "--json"])
        (found,) = json.loads(capsys.readouterr().out)["parts"].values()
        assert found["emission"] < {"float32": 1e-4, "fp16": 2e-3, "int8": 0.1}[kind]


def test_without_a_compiler_the_body_runs_and_it_is_said_once(bundles, monkeypatch, capsys, golden_error):
    monkeypatch.setattr(
        session, "library", lambda *_: Built(None, "there is no C compiler (`cc`, `gcc`, `clang`, or what `CC` names)")
    )
    monkeypatch.setattr(session, "_told", False)
    expected = text(bundles[None], capsys)
    with collected() as said, pytest.warns(Warning, match="W0840"):
        assert session.kernels("float32") == []
    golden_error("W0840", said)
    monkeypatch.setattr(session, "_told", False)
    assert main(["run", str(bundles["float32"]), "--prompt", "def add(a, b):", "--tokens", "12"]) == 0
    out, err = capsys.readouterr()
    assert out == expected
    assert err.count("W0840") == 1


def test_two_bits_take_two_bits(tmp_path):
    bundle = compiled(tmp_path / "two", "lut_gemv (when = always)", weights="int2")
    rows = json.loads((bundle / "manifest.json").read_text())["models"]["draft"]["weights"]
    row = next(row for row in rows if row["name"] == "layers.0.mlp.up_proj")
    n, k = row["shape"]
    assert (row["dtype"], row["bytes"]) == ("int2", n * k // 4 + n * k // 32 * 2 + 1)


@pytest.mark.parametrize(("device", "target"), [("snapdragon_8_gen_3", "mnn"), ("host", "mnn")])
def test_a_target_without_the_op_refuses_it(tmp_path, device, target, capsys):
    compiled(tmp_path / "refused", "lut_gemv (when = always)", device, target, code=1)
    err = capsys.readouterr().err
    assert "E0223" in err
    assert "as ort" in err


def test_prompts_by_the_values_of_the_same_planes(tmp_path):
    lines = "lut_gemv (when = always, tables = float32, prefill = {})  bucket (tokens = [1, 16], context = 64)"
    made = {how: compiled(tmp_path / how, lines.format(how)) for how in ("gemv", "dequant")}
    ops = {}
    for how, bundle in made.items():
        for path in (bundle / "draft").glob("*.onnx"):
            ops[how, "16" in path.name] = [node.op_type for node in ir.load(path).graph]
    assert {key for key, found in ops.items() if "LutDequant" in found} == {("dequant", True)}
    assert {key for key, found in ops.items() if "LutGemv" in found} == {
        ("gemv", True),
        ("gemv", False),
        ("dequant", False),
    }
    assert (made["gemv"] / "draft" / "ort.data").stat().st_size == (
        made["dequant"] / "draft" / "ort.data"
    ).stat().st_size
    texts = []
    for bundle in made.values():
        with edgec.open(bundle) as opened:
            texts.append(opened.generate("def add(a, b):", tokens=8).tokens)
    assert texts[0] == texts[1]


def test_damaged_planes_are_found(bundles, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(bundles["int8"], copy)
    data = copy / "draft" / "ort.data"
    held = bytearray(data.read_bytes())
    held[len(held) // 2] ^= 255
    data.write_bytes(held)
    assert main(["verify", str(copy)]) != 0
    with pytest.raises((EdgecError, SystemExit)):
        raise SystemExit(main(["run", str(copy), "--prompt", "x", "--tokens", "1"]))


def test_a_phone_gets_the_sources_and_what_to_do_with_them(tmp_path):
    bundle = compiled(tmp_path / "phone", "lut_gemv (when = always)", "snapdragon_8_gen_3")
    kernels = bundle / "draft" / "kernels"
    assert (kernels / "build.sh").is_file()
    assert not (kernels / "libedgec_lookup.so").exists()
    libraries = json.loads((bundle / "manifest.json").read_text())["libraries"]
    assert any(row["file"] == "libedgec_lookup.so" and "build.sh" in row["why"] for row in libraries)
