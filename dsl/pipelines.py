"""Pipelines: each step names a pass, its arguments make an instance of it, its globs match names of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from ..compiler.diagnostics.diagnostic import Label, PlanError, Span
from ..compiler.diagnostics.nearest import nearest, nearest_help
from ..compiler.diagnostics.wording import of_any_layer
from ..compiler.pipeline.pass_interface import Pass, Scope
from ..compiler.pipeline.run_steps import order_problems
from ..compiler.pipeline.step import Step
from ..compiler.plan.plan import PipelineDecl
from ..compiler.registry import find_pass, pass_names
from . import ast
from .loader import Loaded
from .models import CheckedModel
from .settings import Reader


@dataclass
class Pipelines:
    """Checked pipelines; `globs` keeps each glob with its place until the models are known."""

    reader: Reader
    loaded: Loaded
    checked: dict[str, PipelineDecl] = field(default_factory=dict)
    globs: dict[str, list[tuple[str, Span]]] = field(default_factory=dict)

    def check(self, pipeline: ast.Pipeline) -> None:
        """Check one pipeline; `checked` gets it if every step is right and the passes' levels follow."""
        name = pipeline.name.text
        self.globs[name] = []
        steps = [self._step(step, name) for step in pipeline.steps]
        whole = tuple(step for step in steps if step is not None)
        if len(whole) == len(steps):
            self.reader.report.diagnostics += order_problems(whole)
            self.checked[name] = PipelineDecl(name, whole, pipeline.span)

    def _step(self, step: ast.Step, pipeline: str) -> Step | None:
        cls = self._pass(step.name)
        on, except_ = (self._names(value, pipeline) for value in (step.on, step.except_))
        if cls is None:
            return None
        owner = f"pass `{step.name.text}`"
        values = self.reader.read(step.settings, cls, owner, step.name.span)
        chosen = step.on or step.except_
        if chosen is not None and not cls.selects:
            help = "it works on the whole model: leave `on` and `except` out"
            self.reader.report.error("E0211", f"{owner} takes no `on` or `except`", chosen.span, help=help)
            return None
        if values is None:
            return None
        made = self.reader.construct(cls, values[0], owner, step.settings, step.name.span)
        if made is None:
            return None
        written = {setting.key.text: setting.span for setting in step.settings}
        return Step(step.name.text, made, on, except_ or (), step.span, written)

    def _pass(self, name: ast.Name) -> type[Pass] | None:
        report = self.reader.report
        if name.text in self.loaded.passes:
            return self.loaded.passes[name.text]
        known = [*pass_names(), *self.loaded.passes]
        if name.text in known:
            try:
                return find_pass(name.text)
            except PlanError as error:
                report.take(error, name.span)
        elif not self.loaded.passes_unknown:
            help = nearest_help(name.text, known, "pass") or f"passes are: {', '.join(sorted(known))}"
            report.error(
                "E0102", f"unknown pass `{name.text}`", name.span, "no pass of this name is installed", help=help
            )
        return None

    def _names(self, value: ast.Value | None, pipeline: str) -> tuple[str, ...] | None:
        """The globs of an `on` or `except`; None without one."""
        resolved = self.reader.lets.resolve(value) if value is not None else None
        if resolved is None:
            return None
        found = []
        for item in resolved.items if isinstance(resolved, ast.ListLiteral) else (resolved,):
            if isinstance(item, ast.String):
                found.append(item.value)
                self.globs[pipeline].append((item.value, item.span))
            else:
                help = 'write e.g. `on "layers.*.mlp.*"`'
                self.reader.report.error("E0201", "`on` and `except` take names in quotes", item.span, help=help)
        return tuple(found)

    def check_globs(self, pipeline: str, names: Mapping[str, Sequence[str]]) -> None:
        """Every glob has to match a node of one of the models that go through the pipeline."""
        for pattern, span in self.globs.get(pipeline, ()):
            if any(fnmatchcase(node, pattern) for nodes in names.values() for node in nodes):
                continue
            of = " or ".join(f"`{name}`" for name in names)
            help = _glob_help(pattern, [node for nodes in names.values() for node in nodes])
            self.reader.report.error("E0307", f"`{pattern}` matches no node of {of}", span, help=help)

    def check_weights(self, pipeline: str, models: Iterable[CheckedModel]) -> None:
        """Each step looks at the shapes of what it selects, as far as passes before it keep the source's."""
        steps = self.checked[pipeline].steps if pipeline in self.checked else ()
        for model in models:
            also = (Label(model.decl.span, "in this model"),)
            sparse: dict[str, str] = {}
            for step in steps:
                scope = Scope(step.on, step.except_)
                selected = {name: shape for name, shape in model.weights.items() if scope.selects(name)}
                found = list(step.pass_.check(selected, step.span))
                kept = {name: sparse[name] for name in selected if name in sparse}
                found += [problem] if (problem := step.demands.without_zeros(kept, step.span)) else []
                for problem in found:
                    self.reader.report.take(PlanError(replace(problem, also=also)), step.span)
                if step.demands.sparse:  # an embedding is left dense
                    sparse |= {
                        name: step.demands.sparse for name in selected if name.rpartition(".")[2] != "embed_tokens"
                    }
                if not step.pass_.keeps_shapes:
                    break


def _glob_help(pattern: str, nodes: Iterable[str]) -> str:
    nodes = list(nodes)
    bare = pattern.removeprefix("model.").removesuffix(".weight").removesuffix(".bias")
    if bare != pattern and any(fnmatchcase(node, bare) for node in nodes):
        return f"names go without `model.` and `.weight`: `{bare}`"
    numbers = {of_any_layer(node) for node in nodes}
    near = nearest(pattern, [*numbers, *nodes])
    if near:
        return f"there is `{near}`"
    inside = f"*{bare.strip('*.')}*"
    if any(fnmatchcase(node, inside) for node in nodes):
        return f"a glob has to match the whole name: `*{bare.strip('*.')}*` would"
    return "`edgec inspect MODEL` lists the names"
