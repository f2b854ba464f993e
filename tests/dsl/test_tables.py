"""Devices, parameters and tokenizers: what the checker reads from tables and small files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from edgec.compiler.diagnostics.diagnostic import Diagnostic, Label, PlanError, Span, render
from edgec.compiler.plan.devices import devices
from edgec.compiler.plan.parameters import param, parameters
from edgec.compiler.sources.tokenizer.tokenizer_file import disagreement

if TYPE_CHECKING:
    from nowhere_at_all import OnlyForTypeCheckers  # type: ignore[import-not-found]


def test_every_figure_of_a_device_has_a_source():
    table = devices()
    assert next(iter(table)) == "host"
    assert len(table) == 8
    for device in table.values():
        if device.is_host:
            assert not device.has_npu
            continue
        assert device.soc
        assert device.arch
        sourced = {key for keys in device.sources for key in keys.split(", ")}
        given = {"soc", "arch", "vtcm_mb", "bandwidth_gbs", "npu_int8_tops", "max_ram_gb", "cores"}
        assert sourced == {key for key in given if getattr(device, key)}, device.name
        assert sum(group.count for group in device.cores) == 8


def test_chips_are_the_ones_the_engines_know():
    known = {device.sm: (device.soc, device.arch) for device in devices().values() if device.sm}
    assert known == {
        "SM8450": (36, "v69"),
        "SM8475": (42, "v69"),
        "SM8550": (43, "v73"),
        "SM8650": (57, "v75"),
        "SM8635": (68, "v73"),
        "SM8750": (69, "v79"),
        "SM8850": (87, "v81"),
    }


@dataclass(frozen=True)
class Sample:
    weights: str = param(doc="a word", choices=("int4", "int8"))
    block: int | str = param(32, doc="a choice", choices=(16, 32, "channel"))
    tokens: tuple[int, ...] = param(doc="several", minimum=1)
    shard: int | str = param("auto", doc="either", choices=("auto",), minimum=1)
    share: float = param(0.5, doc="a share", unit="%", minimum=0.1, maximum=1)
    other: OnlyForTypeCheckers | None = None


def test_parameters_come_from_the_fields_alone():
    found = {parameter.name: parameter for parameter in parameters(Sample)}
    assert list(found) == ["weights", "block", "tokens", "shard", "share"]
    assert [parameter.required for parameter in found.values()] == [True, False, True, False, False]
    assert found["tokens"].many
    assert [parameter.describe() for parameter in found.values()] == [
        "int4 or int8",
        "16, 32 or channel",
        "an integer of at least 1, or a list of them",
        "auto or an integer of at least 1",
        "a percentage like 80%, from 10% to 100%",
    ]


def tokenizer(path, tokens, added=(), listed=False):
    vocab = [[token, 0.0] for token in tokens] if listed else {token: i for i, token in enumerate(tokens)}
    special = [{"id": id_, "content": text} for id_, text in added]
    path.write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": special}))
    return path


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        ((["x", "y"], []), (["x", "y"], []), None),
        ((["x", "y"], []), (["x", "y", "z"], []), None),  # a padded vocabulary
        ((["x", "y"], [(2, "<s>")]), (["x", "y", "<s>"], []), None),
        ((["x", "y"], []), (["y", "x"], []), 'id 0 is "x" in one and "y" in the other, and 1 more ids differ'),
        ((["x", "y"], [(2, "<s>")]), (["x", "y"], [(2, "<pad>")]), 'id 2 is "<s>"'),
        (([], [(5, "x")]), (["y"], []), "no token id in common"),
    ],
)
def test_tokenizers_agree_on_what_both_define(tmp_path, a, b, why):
    one, other = tokenizer(tmp_path / "a.json", *a), tokenizer(tmp_path / "b.json", *b, listed=True)
    found = disagreement(one, other)
    assert (found is None) if why is None else (found is not None and why in found)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": {"vocab": 3}}', '{"model": {"vocab": [[]]}}', "[" * 99999])
def test_what_is_no_tokenizer_is_refused(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(PlanError) as caught:
        disagreement(tmp_path / "bad.json", tokenizer(tmp_path / "good.json", ["x"]))
    assert caught.value.diagnostics[0].code == "E0309"


def test_a_frame_shows_tabs_long_lines_and_other_files():
    span = Span("a", 2, 2, 2, 5)
    text = "one\n\tabc\n"
    assert "2 |     abc\n  |     ^^^ here" in render(Diagnostic("E0001", "m", Label(span, "here")), {"a": text})
    far = Span("a", 1, 901, 1, 904)
    shown = render(Diagnostic("E0001", "m", Label(far)), {"a": "x" * 900 + "abc" + "y" * 900})
    assert "abc" in shown
    assert max(map(len, shown.splitlines())) < 200
    assert render(Diagnostic("E0001", "m", Label(span, "here"), help="do")).splitlines() == [
        "error[E0001]: m",
        " --> a:2:2",
        "  = here",
        "  = help: do",
    ]
