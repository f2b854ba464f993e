"""`edgec verify --jobs`: each part is an action of its own, which runs again only when its files are others."""

from __future__ import annotations

import json

import edgec
import pytest
from edgec.compiler.actions import records
from edgec.compiler.actions.action import Action
from edgec.compiler.actions.perform import perform
from edgec.compiler.actions.verify_parts import part_facts
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.driver import load_request
from edgec.compiler.verify.part_check import parts_of_chips


@pytest.fixture
def bundle(plan_file, tmp_path):
    return edgec.compile(plan_file, tmp_path / "b").bundle


def action_of(bundle) -> Action:
    manifest = load_manifest(bundle)
    (((name, chip), entry),) = parts_of_chips(manifest)
    asked = {"bundle": str(bundle), "part": name, "chip": chip}
    return Action("verify", f"{name} for {chip}", part_facts(manifest, entry), (), asked)


def test_a_part_is_looked_into_once(bundle, capsys):
    assert main(["verify", str(bundle), "--json"]) == 0
    here = json.loads(capsys.readouterr().out)
    key = action_of(bundle).key
    assert records.known(key) is None  # without --jobs nothing is kept
    for _ in range(2):
        assert main(["verify", str(bundle), "--jobs", "2", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["parts"] == here["parts"]
        assert records.known(key).runs == 1


def test_what_was_found_of_a_part_is_what_is_said(bundle, capsys):
    """A kept result with a problem reaches the user: it is read, and not looked for again."""
    action = action_of(bundle)
    records.keep(action, records.Result(facts={"problems": ["its graph is another one"], "read_back": None}))
    assert main(["verify", str(bundle), "--jobs", "2", "--json"]) == 3
    assert any("its graph is another one" in one for one in json.loads(capsys.readouterr().out)["problems"])


def test_a_changed_file_is_found_before_anything_is_looked_up(bundle, capsys):
    assert main(["verify", str(bundle), "--jobs", "2", "--json"]) == 0
    weights = bundle / "draft" / "llm.mnn.weight"
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)
    assert main(["verify", str(bundle), "--jobs", "2", "--json"]) == 3
    assert "has been changed" in capsys.readouterr().out


def test_an_action_of_another_bundle_is_refused(bundle, plan_file, tmp_path):
    action = action_of(bundle)
    edgec.compile(plan_file, bundle, defines={"block": 64})
    with pytest.raises(EdgecError, match="is not the bundle") as raised:
        perform(action, load_request)
    assert raised.value.diagnostics[0].code == "E0971"
