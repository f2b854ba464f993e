"""Passes and targets through real entry points: working, broken, doubled, and trying to take edgec's own names."""

from __future__ import annotations

import pytest
from edgec.compiler import registry
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.diagnostics.nearest import nearest

GOOD = '''\
from dataclasses import dataclass

from edgec.compiler.pipeline.pass_interface import Pass


@dataclass(frozen=True)
class Good(Pass):
    """A pass of a plug-in."""

    name = "good"

    def run(self, module, scope):
        return 0


class Plain(Pass):
    name = "plain"

    def run(self, module, scope):
        return 0


@dataclass(frozen=True)
class Idle(Pass):
    name = "idle"
'''


def test_the_built_in_passes_and_targets_come_through_entry_points():
    assert {"quantize", "place", "bucket"} <= set(registry.passes())
    assert {"qnn", "mnn", "ort"} <= set(registry.targets())
    assert registry.broken_plugins() == []


def test_a_plug_in_brings_its_pass(plugin):
    plugin("good", "[edgec.passes]\ngood = good_plugin:Good\n", {"good_plugin.py": GOOD})
    assert registry.find_pass("good").__name__ == "Good"
    assert registry.broken_plugins() == []


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("good = nowhere:Good", "ModuleNotFoundError"),
        ("good = good_plugin:Missing", "AttributeError"),
        ("good = good_plugin:dataclass", "not a subclass of `Pass`"),
        ("plain = good_plugin:Plain", "not a dataclass"),
        ("idle = good_plugin:Idle", "does not define `run`"),
        ("other = good_plugin:Good", "calls itself `good`"),
    ],
)
def test_a_broken_plug_in_is_told_and_stops_nobody(plugin, entry, why):
    plugin("good", f"[edgec.passes]\n{entry}\n", {"good_plugin.py": GOOD})
    name = entry.split(" ")[0]
    with pytest.raises(PlanError) as caught:
        registry.find_pass(name)
    assert why in str(caught.value)
    assert "quantize" in registry.passes()
    assert name not in registry.passes()
    assert [diagnostic.code for diagnostic in registry.broken_plugins()] == ["E0118"]


def test_the_message_names_the_package(plugin, golden_error):
    plugin("edgec-extras", "[edgec.passes]\nprune = edgec_extras:Prune\n", {})
    with pytest.raises(PlanError) as caught:
        registry.find_pass("prune")
    golden_error("E0118", caught.value)


def test_a_plug_in_cannot_take_the_name_of_a_built_in(plugin):
    text = GOOD.replace('"good"', '"quantize"')
    plugin("thief", "[edgec.passes]\nquantize = thief_plugin:Good\n", {"thief_plugin.py": text})
    assert registry.find_pass("quantize").__module__.startswith("edgec.")


def test_two_plug_ins_with_one_name_are_refused(plugin):
    plugin("one", "[edgec.passes]\ngood = good_plugin:Good\n", {"good_plugin.py": GOOD})
    plugin("two", "[edgec.passes]\ngood = other_plugin:Good\n", {"other_plugin.py": GOOD})
    with pytest.raises(PlanError, match="two plug-ins bring it"):
        registry.find_pass("good")


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("quantise", ["quantize", "place"], "quantize"),
        ("qunatize", ["quantize"], "quantize"),
        ("snapdragon8gen3", ["snapdragon_8_gen_2", "snapdragon_8_gen_3"], "snapdragon_8_gen_3"),
        ("Quantize", ["quantize"], "quantize"),
        ("d", ["m"], None),
        ("prune", ["quantize", "place", "bucket"], None),
        ("", ["a"], None),
    ],
)
def test_nearest_name(name, known, found):
    assert nearest(name, known) == found
