"""Sources come through a door: a plug-in's is used by check, compile, verify and inspect like `hf` and `onnx`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from edgec.compiler import registry
from edgec.compiler.commands.inspect import describe
from edgec.compiler.diagnostics.diagnostic import PlanError
from edgec.compiler.driver import compile_plan, load_plan
from edgec.compiler.sources.hf.hf_source import HfSource
from edgec.compiler.verify.verify_bundle import verify_bundle
from edgec.dsl import check_file

MODELS = Path(__file__).resolve().parents[2] / "examples" / "models"
LINK = '''\
from pathlib import Path

from edgec.compiler.sources.source import Outline, Source


class LinkSource(Source):
    """A model whose folder is named in a text file."""

    word = "link"
    accepts = "file"
    takes = "a text file with the path of a Hugging Face folder"

    def _hf(self):
        from edgec.compiler.sources.hf.hf_source import HfSource
        return HfSource()

    def _folder(self, path):
        return Path(path.read_text().strip())

    def outline(self, path):
        return self._hf().outline(self._folder(path))

    def load(self, name, path, context):
        return self._hf().load(name, self._folder(path), context)

    def files(self, path):
        return [path]

    def tokenizer_folder(self, path):
        return self._folder(path)

    def inspect(self, path):
        return self._hf().inspect(self._folder(path)) if path.suffix == ".link" else None
'''
PLAN = """\
device host
model m {{ source = {source}  context = {context} }}
deploy m on cpu as ort
"""


@pytest.fixture
def link(plugin, tmp_path) -> Path:
    """A file that the plug-in's source reads, which leads to the smaller example model."""
    plugin("links", "[edgec.sources]\nlink = links:LinkSource\n", {"links.py": LINK})
    file = tmp_path / "m.link"
    file.write_text(str(MODELS / "pycode-qwen2"))
    return file


def plan(folder: Path, source: str, context: int = 64) -> Path:
    path = folder / "p.edge"
    path.write_text(PLAN.format(source=source, context=context))
    return path


def test_the_built_in_sources_come_through_entry_points():
    assert {"hf", "onnx"} <= set(registry.sources())
    assert registry.find_source("hf") is HfSource


@pytest.mark.slow
def test_a_plug_in_source_goes_all_the_way(link, tmp_path):
    made = compile_plan(load_plan(plan(tmp_path, 'link("m.link")')), tmp_path / "bundle")
    entry = json.loads((made.bundle / "manifest.json").read_text())["inputs"]["m"]
    assert entry["kind"] == "link"
    assert list(entry["files"]) == ["m.link"]
    result = verify_bundle(made.bundle)
    assert result["ok"], result
    assert result["parts"]["m.cpu0"]["max_error"] < 1e-4
    assert describe(link)["arch"]["family"] == "qwen2"
    registry.forget()
    (tmp_path / "site" / "links-1.0.dist-info" / "entry_points.txt").write_text("")
    result = verify_bundle(made.bundle)  # the source is uninstalled: said, and no error of the bundle
    assert result["ok"]
    assert "`link`" in result["parts"]["m.cpu0"]["why"]


@pytest.mark.parametrize(
    ("source", "context", "code", "said"),
    [
        ('link("m.link")', 1 << 19, "E0338", "context 524288"),
        ('link("gone.link")', 64, "E0301", "there is no file `gone.link`"),
        ('link(".")', 64, "E0302", "`link` takes a text file with the path"),
        ('lnik("m.link")', 64, "E0114", "there is a source named `link`"),
        ('hf("m.link")', 64, "E0302", "`link` takes a text file with the path"),
    ],
)
def test_mistakes_are_told_at_the_plan(link, tmp_path, source, context, code, said):
    _, (found,), _ = check_file(plan(tmp_path, source, context))
    assert found.code == code
    assert said in str(found)
    assert found.at is not None
    assert found.at.span.line == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LINK.replace('word = "link"', 'word = "other"'), "calls itself `other`"),
        (LINK.replace("(Source)", ""), "not a subclass of `Source`"),
        (LINK.replace("    def load(", "    def read("), "lacks `load`"),
        (LINK.replace('accepts = "file"', "pass"), "lacks `accepts`"),
    ],
)
def test_a_broken_source_is_told(plugin, tmp_path, text, why):
    plugin("links", "[edgec.sources]\nlink = links:LinkSource\n", {"links.py": text})
    (tmp_path / "m.link").write_text(".")
    _, (found,), _ = check_file(plan(tmp_path, 'link("m.link")'))
    assert found.code == "E0118"
    assert why in found.message
    with pytest.raises(PlanError):
        registry.find_source("link")
    assert "hf" in registry.sources()


def test_a_plug_in_cannot_take_the_word_of_a_built_in(plugin):
    text = LINK.replace('word = "link"', 'word = "hf"')
    plugin("links", "[edgec.sources]\nhf = links:LinkSource\n", {"links.py": text})
    assert registry.find_source("hf") is HfSource
