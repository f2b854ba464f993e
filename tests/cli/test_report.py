"""report.html: whole, self-contained, and its figures those of the weights."""

from __future__ import annotations

import itertools
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from edgec.compiler.compile.weight_error import ROWS, relative_error, sampled_rows, weight_errors
from edgec.compiler.ir.linears import linears
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.registry import find_pass
from edgec.compiler.report.lanes import picture
from edgec.compiler.report.markup import code, escape, size
from edgec.compiler.report.plots import by_layer
from edgec.compiler.report.weights import by_kind, bytes_per_token, stored_bits
from edgec.compiler.sources.hf.load_hf import load_hf

from .conftest import MODELS

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Open tags that are never closed, and every address the page names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.places: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.places |= {value or "" for key, value in attrs if key == "id" and tag == "section"}
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # `<rect … />`

    def handle_endtag(self, tag: str) -> None:
        # html5 closes these itself
        while self.open and self.open[-1] != tag and self.open[-1] in ("li", "p", "td", "tr"):
            self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_needs_nothing(example: Path) -> None:
    page = Page((example / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    own = {address for address in page.addresses if address.startswith("#")}
    assert set(page.addresses) - own == {"actions.html"}  # its own sections and the page beside it, nothing outside
    assert {address[1:] for address in own} == page.places
    manifest = json.loads((example / "manifest.json").read_text())
    for entry in manifest["models"].values():
        assert all(row["name"] in page.text for row in entry["weights"])
    for words in ("holds", "target.npu1", "t64_c512", "libQnnHtp.so", "place (device = cpu)"):
        assert words in page.text
    assert str(MODELS.parent) not in page.text


def test_a_bundle_names_the_line_of_a_weight_without_the_folder(example: Path) -> None:
    rows = json.loads((example / "manifest.json").read_text())["models"]["target"]["weights"]
    assert {row["source_line"] for row in rows} == {None, "plan.edge:14:3"}


@pytest.mark.parametrize(("weights", "least", "most"), [("int4", 0.05, 0.2), ("int8", 0.002, 0.02)])
def test_errors_are_those_of_the_whole_weights(weights: str, least: float, most: float) -> None:
    module = load_hf("m", MODELS / "pycode-qwen2", 64)
    whole = {linear.name: linear.weight().numpy() for linear in linears(module)}
    find_pass("quantize")(weights=weights).run(module, Scope())
    found = weight_errors(module)
    assert found.keys() == whole.keys()
    for linear in linears(module):
        exact = np.linalg.norm(linear.weight().numpy() - whole[linear.name]) / np.linalg.norm(whole[linear.name])
        assert least < exact < most
        assert found[linear.name] == pytest.approx(exact, rel=1e-5 if linear.shape[0] <= ROWS else 0.05)


def test_what_a_step_did_to_a_weight_before_is_no_error() -> None:
    """A rotation, then rounding: the error is that against the turned weight."""
    module = load_hf("m", MODELS / "pycode-qwen2", 64)
    find_pass("rotate")().run(module, Scope())
    turned = {linear.name: linear.weight().numpy() for linear in linears(module)}
    find_pass("quantize")(weights="int8", block="channel").run(module, Scope())
    found = weight_errors(module)
    for linear in linears(module):
        exact = np.linalg.norm(linear.weight().numpy() - turned[linear.name]) / np.linalg.norm(turned[linear.name])
        assert found[linear.name] == pytest.approx(exact, rel=1e-5 if linear.shape[0] <= ROWS else 0.05)
        assert found[linear.name] < 0.02


def test_a_weight_against_itself_has_no_error() -> None:
    linear = next(iter(linears(load_hf("m", MODELS / "pycode-qwen2", 64))))
    assert relative_error(linear.weight(), linear) == 0


@pytest.mark.parametrize("rows", [1, ROWS, ROWS + 1, 151_936])
def test_what_is_read_of_a_weight_is_bounded_and_lies_in_it(rows: int) -> None:
    ranges = list(sampled_rows(rows, ROWS))
    assert sum(stop - start for start, stop in ranges) == min(rows, ROWS)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == rows


def test_the_grid_has_a_cell_for_each_linear_of_a_layer() -> None:
    values = {f"layers.{layer}.mlp.{kind}": 0.1 * layer for layer in range(40) for kind in ("up", "down")}
    assert by_layer({**values, "lm_head": 0.5}, "error").count("<title>") == 80
    assert by_layer({"conv1": 0.5}, "error") == ""


@pytest.mark.parametrize(
    ("row", "bits"),
    [
        ({"dtype": "float16", "symmetric": None, "block": None, "shape": [4, 8]}, 16),
        ({"dtype": "float32", "symmetric": None, "block": None, "shape": [4, 8]}, 32),
        ({"dtype": "int4", "symmetric": True, "block": 32, "shape": [4, 64]}, 4.5),
        ({"dtype": "uint4", "symmetric": False, "block": 32, "shape": [4, 64]}, 4.625),
        ({"dtype": "int8", "symmetric": True, "block": None, "shape": [8, 4, 2, 2]}, 9),
    ],
)
def test_bits_as_stored(row: dict, bits: float) -> None:
    assert stored_bits(row) == bits


def test_the_top_says_what_it_is_and_whether_it_holds(example: Path) -> None:
    text = (example / "report.html").read_text(encoding="utf-8")
    top = Page(text[text.index("<header>") : text.index("<nav")]).text
    manifest = json.loads((example / "manifest.json").read_text())
    measured = manifest["measured"]
    total = sum(row["size"] for name, row in manifest["files"].items() if name != "report.html")
    assert f"size on disk{size(total)}" in top
    for words in ("speculative", "Snapdragon 8 Gen 3 (SM8650, HTP v75)", "all 2 requirements hold", "qnn on the NPU"):
        assert words in top
    for name, value in measured["perplexity"].items():
        assert f"{value:.4f} {value / measured['baseline'][name]:.4f} of the float model's" in top


def test_kinds_of_weights_and_the_rest_are_all_of_a_models_bytes(example: Path) -> None:
    for entry in json.loads((example / "manifest.json").read_text())["models"].values():
        kinds = by_kind(entry)
        assert list(kinds) == ["embedding", "attention", "MLP"]  # the head is one with the embedding
        assert 0.6 * entry["bytes"] < sum(stored for _, stored in kinds.values()) < entry["bytes"]
        assert bytes_per_token(entry) > kinds["MLP"][1] + kinds["embedding"][1]


def test_text_of_inputs_is_shown_cut_and_safe() -> None:
    assert escape("<b>\x1b[31m\u202e&") == r"&lt;b&gt;\x1b[31m\u202e&amp;"
    long = code("x" * 5000)
    assert len(long) < 1400
    assert "xx … xx" in long
    assert "\n" not in code("a\nb")
    assert escape("a\nb", lines=True) == "a\nb"


def test_a_picture_of_the_parts_has_a_box_for_each_and_arrows_between() -> None:
    names = ["m.cpu0", "m.npu1", "m.cpu2"]
    parts = {name: {"device": name[2:5], "target": "ort", "file": "f", "graphs": {"main": {}}} for name in names}
    edges = [{"from": a, "to": b, "tensor": "x"} for a, b in itertools.pairwise(names)]
    lanes = {"cpu": ["m.cpu0", "m.cpu2"], "npu": ["m.npu1"]}
    bucket = {"parts": names, "schedule": {"lanes": lanes, "edges": [*edges, {**edges[0], "tensor": "y"}]}}
    drawn = picture({"kind": "decoder", "buckets": [bucket]}, parts, names)
    assert (drawn.count("class='box"), drawn.count("class=lane "), drawn.count("class=arrow")) == (3, 2, 4)
    assert "2 tensors" in drawn
    assert "cpu: m.cpu0, m.cpu2; npu: m.npu1" in drawn
    assert picture({"kind": "decoder"}, parts, names * 9) == ""
