"""The text of a first plan: one statement a line as a person would write it, and above each the reason for it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..plan.devices import Device
from .forms import Form, Line
from .found_model import FoundModel


@dataclass(frozen=True)
class Deployed:
    """A model of the plan: its name there, what it is, and the form chosen for it."""

    name: str
    model: FoundModel
    form: Form


@dataclass(frozen=True)
class Texts:
    """Text for solvers and text that perplexity is measured on; windows are what each fills."""

    calibration: tuple[str, ...] = ()
    samples: int = 0
    length: int = 0
    evaluation: tuple[str, ...] = ()
    windows: int = 0


@dataclass(frozen=True)
class Skeleton:
    """All of a plan but its requirements, which follow from its estimate."""

    name: str
    device: Device
    device_why: str
    context: Line | None  # `let ctx = …`
    models: tuple[Deployed, ...]
    texts: Texts
    folder: Path  # the plan's own: paths are written relative to it
    speculates: bool = False

    def text(self, requires: Sequence[Line] = ()) -> str:
        """The plan with these requirements."""
        return "\n".join(self._lines(requires)) + "\n"

    def _lines(self, requires: Sequence[Line]) -> Iterator[str]:
        named = ", ".join(_shown(one.model.path.name) for one in self.models)
        yield f"# {named} for {self.device.marketing}, written by `edgec init`: change what you know better."
        yield f"plan {self.name}"
        yield from _said(Line(f"device {self.device.name}", self.device_why))
        if self.context is not None:
            yield from _said(self.context)
        for one in self.models:
            context = "  context = ctx" if self.context is not None else ""
            line = f"model {one.name} {{ source = {one.model.word}({self._path(one.model.path)}){context} }}"
            yield from _said(Line(line, _what(one, self.speculates)))
        yield from self._text_blocks()
        for one in self.models:
            yield from _pipeline(one)
        for one in self.models:
            yield from _said(_deploy(one))
        if self.speculates:
            target, draft = (one.name for one in self.models)
            why = "as many tokens a round as pay: from the pair's acceptance, and what a drafted token costs here"
            yield from _said(Line(f"speculate {draft} -> {target} {{ k = auto }}", why))
        if requires:
            yield from ("", "require {")
            for line in requires:
                yield from (f"  # {line.why}", f"  {line.text}")
            yield "}"

    def _text_blocks(self) -> Iterator[str]:
        texts = self.texts
        if texts.calibration and any(one.form.calibrated for one in self.models):
            windows = f"samples = {texts.samples}  length = {texts.length}"
            block = f"calibration {{ text = {self._list(texts.calibration)}  {windows} }}"
            why = "what solvers choose integers by: it has to cover every kind of text the model will see"
            yield from _said(Line(block, why))
        if texts.evaluation:
            block = f"evaluation {{ text = {self._list(texts.evaluation)}  windows = {texts.windows} }}"
            yield from _said(Line(block, "what perplexity is measured on: text that no solver has seen"))

    def _list(self, texts: Sequence[str]) -> str:
        written = ", ".join(self._path(Path(text)) for text in texts)
        return written if len(texts) == 1 else f"[{written}]"

    def _path(self, path: Path) -> str:
        """Relative to the plan's folder, unless it was given from the root and lies elsewhere."""
        real, folder = Path(os.path.abspath(path)), Path(os.path.abspath(self.folder))
        if path.is_absolute() and not real.is_relative_to(folder):
            return json.dumps(real.as_posix(), ensure_ascii=False)
        return json.dumps(Path(os.path.relpath(real, folder)).as_posix(), ensure_ascii=False)


def plan_name(path: Path) -> str:
    """A name for the plan, and for its bundle, made of the model's file."""
    name = re.sub(r"\W+", "_", path.stem if path.is_file() else path.resolve().name, flags=re.ASCII).strip("_").lower()
    return name if name and not name[0].isdigit() else f"model_{name}".rstrip("_")


def _shown(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


def _said(line: Line) -> Iterator[str]:
    yield from ("", f"# {line.why}", line.text)


def _what(one: Deployed, pair: bool) -> str:
    arch = one.model.arch
    if arch is None:
        return "a plain graph: it has no cache, and edgec compiles it as it is"
    weights = sum(n * k for n, k in arch.weights().values()) - (arch.vocab * arch.hidden if arch.tied else 0)
    role = {"target": ", whose text ships", "draft": ", which proposes tokens"}.get(one.name, "") if pair else ""
    return f"{arch.family}, {arch.layers} layers, {weights / 1e6:,.1f} million weights{role}"


def _pipeline(one: Deployed) -> Iterator[str]:
    if not one.form.steps:
        return
    yield from ("", f"pipeline {_steps(one)} {{")
    for line in one.form.steps:
        yield from (f"  # {line.why}", f"  {line.text}")
    yield "}"


def _steps(one: Deployed) -> str:
    return f"{one.name}_on_{one.form.place}"


def _deploy(one: Deployed) -> Line:
    form = one.form
    through = f" through {_steps(one)}" if form.steps else ""
    options = f" {{ {form.options} }}" if form.options else ""
    return Line(f"deploy {one.name} on {form.place}{through} as {form.target}{options}", form.why)
