"""Every family through each engine that takes it: what a bundle computes is the float model, or the plan is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edgec.compiler.cli import main

from .conftest import KINDS

PLAN = """
plan families
device snapdragon_8_gen_3
model m {{ source = hf("{model}")  context = 64 }}
pipeline npu {{ bucket (tokens = [1, 16], context = [64]) }}
pipeline cpu {{ }}
deploy m on {deploy}
"""
DEPLOYS = {
    "qnn": ("npu through npu as qnn", 0.02),  # in fp16, layers deep
    "mnn": ("cpu through cpu as mnn { memory = normal }", 2e-3),
    "ort": ("cpu through cpu as ort", 1e-4),
}
# what an engine has no form for, and the code that says so
REFUSED = {
    ("qnn", "gemma3_text"): "E0634",
    ("qnn", "mistral-window"): "E0634",
    ("mnn", "gemma3_text"): "E0703",
    ("mnn", "mistral-window"): "E0703",
    ("mnn", "smollm3"): "E0703",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One cache for all: proofs of forms that no table holds are made once."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", DEPLOYS)
def test_a_bundle_is_the_float_model(
    engine: str, kind: str, folder_of: Callable[[str], Path], cache: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("EDGEC_CACHE", cache)
    deploy, bound = DEPLOYS[engine]
    plan = tmp_path / "plan.edge"
    plan.write_text(PLAN.format(model=folder_of(kind), deploy=deploy))
    refused = REFUSED.get((engine, kind))
    code = main(["compile", str(plan), "-o", str(tmp_path / "out"), "--quiet"])
    told = capsys.readouterr()
    if refused is not None:
        assert code == 1, told.err
        assert f"error[{refused}]" in told.err
        return
    assert code == 0, told.err
    assert main(["verify", str(tmp_path / "out"), "--json"]) == 0
    parts: dict[str, Any] = json.loads(capsys.readouterr().out)["parts"]
    for facts in parts.values():
        assert facts["emission"] is not None
        assert facts["relative_error"] < bound
