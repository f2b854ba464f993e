"""`edgec sweep`: every combination once, what they share made once, and a row for what fails."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import edgec
import pytest
from edgec.compiler.cli import main
from edgec.compiler.diagnostics.diagnostic import Diagnostic, PlanError
from edgec.compiler.search.front import front
from edgec.compiler.search.page import _Labels, _overlap, _Scale, page
from edgec.compiler.search.point import Figures, Point
from edgec.compiler.search.sweep import Sweep
from edgec.compiler.search.table import lines, summary

ROOT = Path(__file__).resolve().parents[2]
PLAN = f"""
plan swept
let block = 32
let bits = int8
let chip = snapdragon_8_gen_3
let dir = "{ROOT / "examples" / "models" / "pycode-qwen2"}"
let globs = ["lm_head"]
device chip
model m {{ source = hf(dir)  context = 64 }}
pipeline p {{ quantize (weights = bits, block = block, method = mse)  except globs }}
deploy m on cpu through p as ort
require {{ bundle.size <= 9 MB }}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    (tmp_path / "plan.edge").write_text(PLAN)
    return tmp_path / "plan.edge"


def test_what_points_share_is_made_once(plan: Path, tmp_path: Path, monkeypatch) -> None:
    """Two chips take the same integers: of four points two solve, and the others find every weight."""
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    pytest.importorskip("torch")
    axes = {"block": [32, 64], "chip": ["sm8550", "sm8650"]}
    found = edgec.sweep(plan, axes, output=tmp_path / "out")
    assert [dict(point.values) for point in found.points] == [
        {"block": "32", "chip": "sm8550"},
        {"block": "32", "chip": "sm8650"},
        {"block": "64", "chip": "sm8550"},
        {"block": "64", "chip": "sm8650"},
    ]
    assert {point.state for point in found.points} == {"holds"}
    hits, made = found.shared["solve"]
    linears = 2 * 7 + 1  # of two layers, and the embedding: the head is left out
    assert made == 2 * linears
    assert hits >= 2 * linears
    assert sorted(path.name for path in (tmp_path / "out").iterdir())[0] == "001-block-32-chip-sm8550"
    sizes = [point.figures.size for point in found.points]
    assert sizes[0] == sizes[1] > sizes[2]
    assert {"001-block-32-chip-sm8550", "004-block-64-chip-sm8650"} <= {x.name for x in (tmp_path / "out").iterdir()}
    assert len(found.front) >= 1
    text = "\n".join(lines(found.points))
    assert text.count("\n") == 4
    assert "*" in text


def test_with_jobs_an_action_of_several_points_runs_once(plan: Path, tmp_path: Path, monkeypatch) -> None:
    """For a CPU two chips take the same files: of two points one action is left."""
    monkeypatch.setenv("EDGEC_CACHE", str(tmp_path / "cache"))
    plan.write_text(plan.read_text().replace("method = mse", "method = rtn"))
    said: list[str] = []
    found = edgec.sweep(plan, {"chip": ["sm8550", "sm8650"]}, jobs=2, progress=said.append)
    assert [point.state for point in found.points] == ["holds", "holds"]
    assert found.points[0].figures.size == found.points[1].figures.size
    assert [line.split("] ")[0] for line in said if line.startswith("[")] == ["[1/1"]
    assert found.points[0].figures.decode != found.points[1].figures.decode


def test_a_point_that_misses_a_requirement_is_a_row(plan: Path, capsys) -> None:
    text = plan.read_text().replace("9 MB", "1 KB").replace("method = mse", "method = rtn")
    plan.write_text(text)
    assert main(["sweep", str(plan), "-D", "block=[32]", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["points"][0]
    assert row["state"] == "does not hold"
    assert "bundle.size" in row["missed"][0]
    assert row["size"] > 1000


def test_a_rate_that_cannot_hold_is_a_row_too(plan: Path) -> None:
    """The compile refuses it by the estimate, whose figures the row has: nothing was made."""
    text = plan.read_text().replace("bundle.size <= 9 MB", "decode.rate >= 1000000 tok/s")
    plan.write_text(text.replace("method = mse", "method = rtn"))
    (point,) = edgec.sweep(plan, {"block": [32]}).points
    assert point.state == "does not hold"
    assert "decode.rate" in point.missed[0]
    assert point.figures.decode is not None
    assert 0 < point.figures.decode < 1e6


def test_a_point_that_fails_is_a_row_with_its_code(plan: Path, capsys) -> None:
    plan.write_text(plan.read_text().replace("method = mse", "method = rtn"))
    words = ["sweep", str(plan), "-D", "bits=[int8,int5]", "-D", "block=[32]", "--json", "--quiet"]
    assert main(words) == 1
    found = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in found["points"]] == ["not run", "E0204"]
    assert main([*words, "--keep-going"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in found["points"]] == ["holds", "E0204"]
    assert found["points"][1]["error"]["help"]
    assert main([word for word in words if word != "--json"]) == 1
    shown = capsys.readouterr()
    assert "E0204: `weights` cannot be `int5`" in shown.out
    assert "1 point was not run: `--keep-going` makes those that can be" in shown.out
    assert "on the front" not in shown.out  # there is none
    assert "| " in shown.err  # the line that is wrong is shown
    assert "quantize (weights = bits" in shown.err


@pytest.mark.parametrize(
    ("defines", "code"),
    [
        (["blok=[32,64]"], "E0113"),
        (["block=[]"], "E0983"),
        (["block=[32,true]"], "E0207"),
        (['block=["32"]'], "E0207"),
        (["block=64"], "E0983"),
        ([], "E0983"),
        (["block=[32]", "block=[64]"], "E0983"),
        (["block=[32, 64]", "block=64"], "E0983"),
        (["block=64", "block=[32, 64]"], "E0983"),
        (["block=[32,64", "bits=[int8]"], "E0006"),
        (["block"], "E0113"),
        (["globs=[]"], "E0983"),
        (['globs=["lm_head"]'], "E0983"),
        (["block=[[32]]"], "E0207"),
        (["block=[" + ",".join(map(str, range(257))) + "]"], "E0984"),
    ],
)
def test_what_cannot_be_swept_is_told_before_any_work(plan: Path, defines: list[str], code: str, capsys) -> None:
    words = [word for define in defines for word in ("-D", define)]
    assert main(["sweep", str(plan), *words]) == 1
    shown = capsys.readouterr()
    assert code in shown.err, shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_goldens(plan: Path, golden_error) -> None:
    with pytest.raises(PlanError) as raised:
        edgec.sweep(plan, {"block": 32})
    golden_error("E0983", raised.value)
    with pytest.raises(PlanError) as raised:
        edgec.sweep(plan, {"block": [32, 64], "bits": ["int4", "int8"]}, most=3)
    golden_error("E0984", raised.value)


def test_lists_and_strings_are_swept_by_their_own_kind(plan: Path) -> None:
    from edgec.compiler.driver import sweep_axes

    axes, fixed = sweep_axes(plan, ['globs=[["lm_head"], ["embed_tokens"]]', 'dir=["a b", "c"]', "block=64"])
    assert axes == {"globs": ('["lm_head"]', '["embed_tokens"]'), "dir": ("a b", "c")}
    assert fixed == ["block=64"]
    _, fixed = sweep_axes(plan, ['globs=["lm_head"]', "dir=[a", "block=[32]"])
    assert fixed == ['globs=["lm_head"]', "dir=[a"]  # a list that is the value itself, a text that only looks like one


def test_without_a_list_what_the_plan_wants_tuned_is_swept(plan: Path) -> None:
    from edgec.compiler.driver import sweep_axes

    plan.write_text(plan.read_text().replace("let block = 32", "let block = tune(32, channel)"))
    assert sweep_axes(plan, ["bits=int8"]) == ({"block": ("32", "channel")}, ["bits=int8"])
    assert sweep_axes(plan, ["bits=[int4, int8]"])[0] == {"bits": ("int4", "int8")}
    with pytest.raises(PlanError):
        edgec.sweep(plan, {"block": 32})


def test_progress_tells_each_point_as_it_is_done() -> None:
    assert summary(point(1e6, 1.2, 9.0)) == "block=1e+06: MB 1.00, perplexity 1.2000, tok/s 9.0, memory MB 1.0, holds"
    assert summary(point(1e6, None, missed=True)) == "block=1e+06: MB 1.00, memory MB 1.0, no"


def point(size: float, quality: float | None, decode: float | None = None, missed: bool = False) -> Point:
    figures = Figures(size=size, quality=quality, decode=decode, memory=size)
    return Point({"block": f"{size:g}"}, figures, ("no",) if missed else ())


def test_the_front_is_what_no_other_beats() -> None:
    points = [point(1e6, 1.2), point(2e6, 1.1), point(3e6, 1.15), point(2e6, 1.1), point(1e6, 1.0, missed=True)]
    assert front(points) == [0, 1, 3]  # two equal points are both there; what misses is not, however good
    assert front([point(2e6, 1.0, missed=True), point(3e6, 1.0, missed=True)]) == [0]
    wrong = Point({}, error=Diagnostic("E0204", "x"), exit_code=1)
    assert front([wrong, Point({}, run=False)]) == []
    assert front([point(1e6, 1.1, 5.0), point(1e6, 1.1, 7.0)]) == [1]  # of rates the larger


class _Balanced(HTMLParser):
    """Whether every element of the page that has to be closed is."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_draws_the_points_and_the_front() -> None:
    points = [point(1e6, 1.2, 9.0), point(2e6, 1.1, 5.0), point(3e6, 1.15, 4.0), point(4e6, 1.3, 3.0, missed=True)]
    points.append(Point({"block": "<b>"}, error=Diagnostic("E0204", "`<script>` is wrong"), exit_code=1))
    found = Sweep(Path("a.edge"), {"block": ("1", "2")}, (), tuple(points), {"solve": (3, 4)})
    text = page(found)
    reader = _Balanced()
    reader.feed(text)
    assert reader.open == []
    assert "<script" not in text
    assert text.count("<svg class=sweep") == 3  # by size, rate and memory
    drawn = text.split("<svg class=sweep")[1].split("</svg>")[0]
    assert len(re.findall("class=best", drawn)) == 2
    assert len(re.findall("class=other", drawn)) == 1
    assert len(re.findall("class=misses", drawn)) == 1
    for coordinate, high in (("cx", 718), ("cy", 382)):
        assert all(0 <= float(value) <= high for value in re.findall(rf"{coordinate}=([\d.]+)", drawn))
    assert "E0204" in text
    assert "<code>&lt;script&gt;</code> is wrong" in text
    assert found._repr_html_() == text


def test_labels_cover_neither_points_nor_each_other() -> None:
    labels = _Labels([(300.0, 200.0), (304.0, 204.0)])
    placed = [labels.beside(x, y, "int4 64 mse") for x, y in ((300.0, 200.0), (304.0, 204.0))]
    assert all(placed)
    boxes = labels.taken
    assert not any(_overlap(box, other) for at, box in enumerate(boxes[2:], 2) for other in boxes[:at])
    assert labels.beside(300.0, 200.0, "a" * 200) == ""  # no room: the mark's own title has it


def test_a_page_with_nothing_to_draw_says_so() -> None:
    found = Sweep(Path("a.edge"), {"block": ("1",)}, (), (point(1e6, 1.2),))
    assert "Nothing is drawn" in page(found)
    assert "1 point (" in page(found)


@pytest.mark.parametrize("values", [[0.95, 0.96], [1.0, 1e9], [3.0, 3.0000001], [0.1, 0.7, 0.3]])
def test_scales_are_round_and_hold_every_value(values: list[float]) -> None:
    scale = _Scale.of(values)
    assert all(-1e-9 <= scale.share(value) <= 1 + 1e-9 for value in values)
    assert 3 <= len(scale.marks()) <= 8


def test_a_page_is_written_over_only_when_told(plan: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "page.html").write_text("mine")
    assert main(["sweep", str(plan), "-D", "block=[32]", "--html", str(tmp_path / "page.html")]) == 1
    assert "E0982" in capsys.readouterr().err
    assert (tmp_path / "page.html").read_text() == "mine"
