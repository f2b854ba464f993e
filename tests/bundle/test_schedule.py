"""What a schedule says: lanes, who waits for whom, what may overlap; and what keeps one from running."""

from __future__ import annotations

import pytest
from edgec.compiler.bundle.manifest import write_manifest
from edgec.compiler.bundle.schedule import Schedule, Transfer, lanes_by_device
from edgec.compiler.bundle.write import write_bundle
from edgec.compiler.commands.inspect import describe

DEVICES = {"a": "npu", "b": "npu", "c": "cpu", "d": "npu"}
FORK = (
    Transfer("x", "a", "b", "first"),
    Transfer("x", "a", "c", "first"),
    Transfer("y", "b", "d", "main"),
    Transfer("z", "c", "d", "aside", 1),
)
FORKED = Schedule(("a", "b", "c", "d"), lanes_by_device(DEVICES, ("a", "b", "c", "d")), FORK)


def test_a_fork_overlaps_between_its_ends():
    assert FORKED.lanes == {"npu": ("a", "b", "d"), "cpu": ("c",)}
    assert FORKED.makers() == {"a": set(), "b": {"a"}, "c": {"a"}, "d": {"b", "c"}}
    assert FORKED.overlaps() == [("b", "c")]
    assert list(FORKED.problems()) == []


def test_parts_of_one_lane_never_overlap():
    lanes = {"npu": ("a", "b", "c", "d")}
    assert Schedule(FORKED.parts, lanes, FORK).overlaps() == []


def test_the_manifest_says_it_all():
    bucket = {"parts": list(FORKED.parts), "schedule": FORKED.entry()}
    assert Schedule.of_bucket(bucket) == FORKED
    assert bucket["schedule"]["edges"][3] == {"tensor": "z", "from": "c", "to": "d", "node": "aside", "output": 1}


def test_a_bucket_without_a_schedule_is_one_lane():
    found = Schedule.of_bucket({"parts": ["a", "b"]})
    assert list(found.lanes.values()) == [("a", "b")]
    assert (found.makers(), found.overlaps()) == ({"a": set(), "b": set()}, [])


def test_inspect_shows_lanes_and_what_overlaps(tmp_path, data):
    (part,) = data["parts"].values()
    data["parts"] = {name: {**part, "device": device} for name, device in DEVICES.items()}
    data["models"]["m"]["buckets"][0] |= {"parts": list(FORKED.parts), "schedule": FORKED.entry()}

    def fill(scratch):
        (scratch / "m").mkdir()
        (scratch / "m" / "cpu0.onnx").write_text("abc")
        write_manifest(scratch, data)

    write_bundle(tmp_path / "demo", fill)
    facts = describe(tmp_path / "demo")["models"]["m"]
    assert facts["lanes"] == {"npu": ["a", "b", "d"], "cpu": ["c"]}
    assert facts["overlaps"] == [("b", "c")]


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        (Schedule(("a", "b"), {"npu": ("a",)}), "its lanes do not hold each of its parts once"),
        (Schedule(("a", "b"), {"npu": ("a", "b"), "cpu": ("b",)}), "its lanes do not hold each of its parts once"),
        (Schedule(("a", "b"), {"npu": ("b", "a")}), "lane `npu` runs its parts in another order than `parts`"),
        (
            Schedule(("a", "b"), {"npu": ("a",), "cpu": ("b",)}, (Transfer("x", "b", "a", "n"),)),
            "`x` goes from `b` to `a`, which `parts` does not run in this order",
        ),
        (
            Schedule(("a",), {"npu": ("a",)}, (Transfer("x", "gone", "a", "n"),)),
            "`x` goes from `gone` to `a`, which `parts` does not run in this order",
        ),
    ],
)
def test_what_cannot_run_is_named(schedule, told):
    assert list(schedule.problems()) == [told]
