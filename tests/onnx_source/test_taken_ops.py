"""`edgec inspect FILE.onnx`: what each target takes, op by op, before a plan exists."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from edgec.compiler.cli import main
from edgec.compiler.compile.dry_run import dry_run
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.driver import load_plan

CHOOSES = """g (float[2,8] x, bool c) => (float[2,8] y) {
    r = Relu(x)
    y = If (c) <
        then_branch = t () => (float[2,8] p) { a = Relu(r) p = Neg(a) },
        else_branch = e () => (float[2,8] q) { q = Relu(r) }
    >
}"""


def saved(folder: Path, graph: str) -> Path:
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {graph}'), folder / "m.onnx")
    return folder / "m.onnx"


def facts(file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["inspect", str(file), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["targets"]


def test_bodies_are_counted_and_go_with_their_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(saved(tmp_path, CHOOSES), capsys)
    assert {name: one["takes"] for name, one in found.items()} == {"mnn": False, "ort": True, "qnn": False}
    relu = found["qnn"]["ops"]["Relu"]
    assert (relu["count"], relu["refused"], relu["unproven"]) == (3, 2, 1)
    assert relu["reasons"]["inside If `If_0`"] == ["Relu_1", "Relu_2"]
    assert (found["qnn"]["ops"]["If"]["refused"], found["qnn"]["ops"]["Neg"]["refused"]) == (1, 1)
    assert found["ort"]["ops"]["Relu"] == {"count": 3, "refused": 0, "unproven": 0}


def test_the_table_has_a_column_for_each_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(saved(tmp_path, CHOOSES))]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["op", "count", "as", "mnn", "as", "ort", "as", "qnn"] in lines
    assert ["If", "1", "not", "taken", "not"] in lines
    assert ["the", "model", "not", "taken", "not"] in lines


def test_behind_open_inputs_nothing_is_claimed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path, "g (float[n,8] x) => (float[n,8] y) { y = Relu(x) }")
    assert facts(file, capsys)["qnn"]["all_told"] is False
    main(["inspect", str(file)])
    assert ["Relu", "1", "taken", "taken", "?"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_a_refusal_says_what_takes_the_file(tmp_path: Path, golden_error: Callable[..., None]) -> None:
    saved(tmp_path, CHOOSES)
    plan = tmp_path / "plan.edge"
    model = 'model m { source = onnx("m.onnx") }\n'
    plan.write_text(f"device snapdragon_8_gen_3\n{model}deploy m on cpu as mnn {{ lowering = edgec }}\n")
    found = dry_run(load_plan(plan)).refused
    assert {one.code for one in found[:-1]} == {"E0710"}
    golden_error("E0507", PlanError(replace(found[-1], at=None)))
