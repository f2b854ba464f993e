"""What `require` can name comes through entry points: a plug-in's measure from `check` to the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from edgec.compiler import registry
from edgec.compiler.driver import BrokenRequirement, check_plan, compile_plan, load_plan

MODEL = Path(__file__).resolve().parents[2] / "examples" / "models" / "pycode-qwen2"
FILES = '''
from edgec.api import Measure


class Files(Measure):
    """Number of files in the bundle."""

    name = "files"
    of = "bundle"

    def value(self, finished, model):
        return float(sum(path.is_file() for path in finished.directory.rglob("*"))), 1.0


class Share(Measure):
    """Bytes of one model's files, as a part of the bundle's."""

    name = "share"
    of = "model"

    def value(self, finished, model):
        return finished.manifest["models"][model]["bytes"] / finished.size, 1.0

    def describe(self, value, baseline):
        return f"{value:.0%} of the bundle"
'''
ENTRIES = "[edgec.measures]\nfiles = more_measures:Files\nshare = more_measures:Share\n"
Plugin = Callable[[str, str, dict[str, str]], None]


def plan(folder: Path, require: str) -> Path:
    path = folder / "plan.edge"
    text = f'plan p\ndevice host\nmodel m {{ source = hf("{MODEL}")  context = 64 }}\ndeploy m on cpu as ort\n'
    path.write_text(text + f"require {{ {require} }}\n")
    return path


def codes(path: Path) -> list[tuple[str, str | None]]:
    return [(found.code, found.help) for found in check_plan(path, fast=True)[1]]


def test_an_installed_measure_is_measured_reported_and_can_fail(plugin: Plugin, tmp_path: Path) -> None:
    plugin("more-measures", ENTRIES, {"more_measures.py": FILES})
    path = plan(tmp_path, "bundle.files <= 2\n m.share >= 0.5")
    with pytest.raises(BrokenRequirement) as caught:
        compile_plan(load_plan(path), tmp_path / "out")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E0950"
    assert diagnostic.message.startswith("`bundle.files <= 2` does not hold: measured ")
    rows = caught.value.result.manifest["measured"]["requires"]
    assert [(row["line"], row["holds"]) for row in rows] == [("bundle.files <= 2", False), ("m.share >= 0.5", True)]
    report = (caught.value.result.bundle / "report.html").read_text(encoding="utf-8")
    assert rows[1]["text"].endswith("% of the bundle")
    assert rows[1]["text"] in report


DEVICE = "decode.rate, peak_memory, prefill.rate"


@pytest.mark.parametrize(
    ("require", "code", "help"),
    [
        ("bundle.file <= 2", "E0116", "did you mean `bundle.files`?"),
        ("m.files <= 2", "E0116", f"what can be required: bundle.files, bundle.size, m.perplexity, m.share, {DEVICE}"),
        ("bundle.files <= 2 * baseline", "E0201", "write a number"),
        ("bundle.files <= 2 MB", "E0201", "write a number"),
        ("bundle.size <= 2 * baseline", "E0201", "write a size like `3.4 GiB`"),
    ],
)
def test_the_checker_judges_by_the_measure(plugin: Plugin, tmp_path: Path, require: str, code: str, help: str) -> None:
    plugin("more-measures", ENTRIES, {"more_measures.py": FILES})
    assert codes(plan(tmp_path, require)) == [(code, help)]


def test_without_the_plug_in_its_word_is_unknown(tmp_path: Path) -> None:
    assert [code for code, _ in codes(plan(tmp_path, "bundle.files <= 2"))] == ["E0116"]


def test_a_class_that_is_no_measure_is_told(plugin: Plugin) -> None:
    plugin(
        "bad", "[edgec.measures]\nfiles = bad_measure:Files\n", {"bad_measure.py": "class Files:\n    name = 'files'\n"}
    )
    assert "files" not in registry.measures()
    assert any("measure `files`" in found.message for found in registry.broken_plugins())
