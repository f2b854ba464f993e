"""What no table holds is run before it is refused: on the emulator, on MNN, from the shell and from Python."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import edgec as api
import pytest
from edgec.compiler.compile.dry_run import Findings
from edgec.compiler.diagnostics.warn import EdgecWarning
from edgec.compiler.driver import CompileOptions, check_plan, compile_plan, load_plan, prove_plan
from edgec.compiler.emit.conformance.measure import UNENDED
from edgec.compiler.files import cache

from .conftest import edgec
from .test_dry_run import GRAPH, matrix, write_graph

INT8 = "  quantize (weights = int8, block = channel)"
WRONG = "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)"  # HTP divides by the whole window


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))


def linear(folder: Path) -> Path:
    """A linear with fewer inputs than any row has."""
    write_graph(folder / "m.onnx", "y = MatMul (x, w)", w=matrix(64, 128))
    return written(folder, GRAPH.format(lines=INT8, place="npu", target="qnn"))


def slope(folder: Path) -> Path:
    """An op that MNN has rows of, at a slope that none has."""
    write_graph(folder / "m.onnx", "y = LeakyRelu <alpha = 3.0> (x)", result="1,64")
    return written(folder, GRAPH.format(lines="", place="cpu", target="mnn"))


def written(folder: Path, text: str) -> Path:
    path = folder / "plan.edge"
    path.write_text(text)
    return path


def codes(path: Path, prove: bool = True) -> list[tuple[str, str]]:
    return [(one.code, one.severity) for one in check_plan(path, prove=prove)[1] if one.code != "W0601"]


@pytest.mark.parametrize(("make", "code"), [(linear, "E0640"), (slope, "E0710")])
def test_a_missing_row_is_a_note_then_run_then_known(tmp_path: Path, make, code: str, golden_error) -> None:
    path = make(tmp_path)
    assert codes(path) == [("W0602", "note")]
    if code == "E0640":
        (note,) = [one for one in check_plan(path)[1] if one.code == "W0602"]
        golden_error("W0602", [replace(note, at=None)])
    again: list[str] = []
    assert [one.code for one in check_plan(path, progress=again.append)[1] if one.severity == "note"] == ["W0602"]
    assert again == []  # what was left is remembered, too
    assert codes(path, prove=False) == [(code, "error")]
    said: list[str] = []
    (one,) = prove_plan(load_plan(path), said.append)
    assert one.row.verdict == "right"
    assert any(line.startswith("proving 1 form of `m` on ") for line in said)
    assert any(line.startswith("1 of 1 right, in ") for line in said)
    assert codes(path) == codes(path, prove=False) == []
    assert prove_plan(load_plan(path)) == []


def test_without_proof_a_compile_refuses_and_with_it_the_bundle_says_so(tmp_path: Path) -> None:
    path = linear(tmp_path)
    refused = edgec("compile", path, "--no-prove", "-o", tmp_path / "out")
    assert refused.returncode == 1
    assert "error[E0640]" in refused.stderr
    assert "leave out `--no-prove`" in refused.stderr
    assert not (tmp_path / "out").exists()
    result = compile_plan(load_plan(path), tmp_path / "out")
    (note,) = [note for note in result.models[0].notes() if "from edgec's own table" in note]
    assert note.startswith("1 form (matmul_nbits) known to be right from runs on the emulator for v75")


def test_a_wrong_row_is_a_refusal_with_its_figure(tmp_path: Path) -> None:
    write_graph(tmp_path / "m.onnx", WRONG, shape="1,8,20,20", result="1,8,20,20")
    path = written(tmp_path, GRAPH.format(lines="", place="npu", target="qnn { lowering = edgec }"))
    assert codes(path) == [("W0602", "note")]
    with pytest.raises(api.PlanError) as raised:
        api.prove(path)
    found = raised.value.diagnostics[0]  # behind it, what takes the file
    assert found.code == "E0640"
    assert "the engine computes wrong numbers at channels 8" in found.message
    assert "(error " in found.message
    assert codes(path)[0] == ("E0640", "error")  # from the row that was kept: nothing is run


def test_damaged_rows_are_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_said", set())  # a process says it once
    path = slope(tmp_path)
    api.prove(path)
    (note,) = (cache.cache_root() / "conformance").rglob("*.note")
    note.write_bytes(note.read_bytes()[:-70])
    with pytest.warns(EdgecWarning, match="W0955"):
        assert codes(path) == [("W0602", "note")]
    assert len(api.prove(path)) == 1
    assert codes(path) == []


def test_the_command(tmp_path: Path) -> None:
    path = slope(tmp_path)
    done = edgec("prove", path, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["lowering"], row["verdict"], row["shape"]["alpha"]) == ("LeakyRelu", "right", 3.0)
    again = edgec("prove", path)
    assert again.stdout == f"{path}: nothing to prove\n"
    assert edgec("check", path, "--no-prove").returncode == 0


def test_a_run_that_comes_to_no_end_is_an_error_and_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden_error
) -> None:
    from edgec.targets.mnn.conformance import prove as mnn

    path = slope(tmp_path)
    monkeypatch.setattr(mnn, "run_case", lambda _made: (UNENDED, {}))
    with pytest.raises(api.EngineError) as raised:
        api.prove(path)
    golden_error("E0641", raised.value)
    assert codes(path) == [("W0602", "note")]


@pytest.mark.parametrize("prove", [True, False])
def test_what_only_the_compile_sees_is_run_at_emission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prove: bool
) -> None:
    """As behind a pass that reads weights, where the dry run ends."""
    monkeypatch.setattr("edgec.compiler.compile.prove.refuse_early", lambda *_: Findings())
    said: list[str] = []
    options = CompileOptions(prove=prove, progress=said.append)
    if not prove:
        with pytest.raises(api.PlanError, match="E0640"):
            compile_plan(load_plan(linear(tmp_path)), tmp_path / "out", options)
        return
    compile_plan(load_plan(linear(tmp_path)), tmp_path / "out", options)
    assert any(line.startswith("m: proving 1 form on the HTP emulator for v75, about ") for line in said)
