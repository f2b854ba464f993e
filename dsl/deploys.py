"""`deploy` and `speculate`: what runs where, and whether the pieces fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..compiler.diagnostics.diagnostic import Label, PlanError, Span
from ..compiler.diagnostics.nearest import nearest_help, same_word
from ..compiler.diagnostics.wording import join_or
from ..compiler.ir.placement import PLACES
from ..compiler.plan.devices import Device
from ..compiler.plan.plan import Deploy, ModelDecl, PipelineDecl, Speculate
from ..compiler.registry import find_target, target_names, targets
from ..compiler.sources.tokenizer.tokenizer_file import disagreement
from . import ast
from .declared import Declared
from .diagnostic_collector import DiagnosticCollector
from .loader import Loaded
from .settings import DeployBlock, Reader, SpeculateBlock

if TYPE_CHECKING:
    from ..compiler.emit.target import Target


@dataclass
class Deploys:
    """Checks `deploy` and `speculate` lines against the plan's declarations and the installed targets."""

    reader: Reader
    loaded: Loaded
    declared: Declared
    devices: tuple[Device, ...]

    @property
    def report(self) -> DiagnosticCollector:
        """Where errors go."""
        return self.reader.report

    def check(self, deploy: ast.Deploy) -> Deploy | None:
        """The deploy line resolved; None after an error in it."""
        before = self.report.errors
        self._known(deploy.model, self.declared.models, "model", "E0105")
        if deploy.pipeline is not None:
            self._known(deploy.pipeline, self.declared.pipelines, "pipeline", "E0106")
        target = self._target(deploy.target)
        self._place(deploy, target)
        if target is None:
            return None
        owner = f"target `{deploy.target.text}`"
        values = self.reader.read(deploy.settings, target.Options, owner, deploy.target.span, DeployBlock)
        if values is None:
            return None
        options = self.reader.construct(target.Options, values[0], owner, deploy.settings, deploy.target.span)
        block = DeployBlock(**values[1])
        if block.accept and not block.reason.strip():
            message = f"{owner} accepts {join_or(block.accept, 'and')} without a reason"
            self.report.error(
                "E0205", message, _place(deploy, "accept"), help='add e.g. `reason = "tried on our own phones"`'
            )
        if block.reason and not block.accept:
            message = f"{owner}: `reason` has no effect without `accept`"
            self.report.error(
                "E0206", message, _place(deploy, "reason"), help="add e.g. `accept = W0601`, or take it out"
            )
        if self.report.errors > before or options is None:
            return None
        return Deploy(
            model=deploy.model.text,
            device="npu" if deploy.place.text == "npu" else "cpu",
            pipeline=deploy.pipeline.text if deploy.pipeline else None,
            target=deploy.target.text,
            options=options,
            kv=block.kv,
            span=deploy.span,
            accept=tuple(map(str, block.accept)),
            reason=block.reason.strip(),
        )

    def _known(self, name: ast.Name, known: Iterable[str], noun: str, code: str) -> bool:
        if name.text in known or name.text in self.loaded.lost_names(noun) or self.loaded.gave_up:
            return True
        known = list(known)
        listed = f"{noun}s are: {', '.join(known)}" if known else f"the plan declares no {noun}"
        help = nearest_help(name.text, known, noun) or listed
        self.report.error(code, f"unknown {noun} `{name.text}`", name.span, "not declared in this plan", help=help)
        return False

    def _target(self, name: ast.Name) -> type[Target] | None:
        if name.text in target_names():
            try:
                return find_target(name.text)
            except PlanError as error:
                self.report.take(error, name.span)
                return None
        known = target_names()
        help = nearest_help(name.text, known, "target") or f"targets are: {', '.join(known)}"
        meant = [one for one, cls in targets().items() if same_word(name.text, cls.also_called)]
        if meant:
            help = f"`{meant[0]}` is the target that writes for it"
        self.report.error("E0104", f"unknown target `{name.text}`", name.span, help=help)
        return None

    def _place(self, deploy: ast.Deploy, target: type[Target] | None) -> None:
        place = deploy.place
        if place.text not in PLACES:
            help = f"a model runs on {' or '.join(f'`{x}`' for x in PLACES)}"
            self.report.error("E0115", f"unknown place `{place.text}`", place.span, help=help)
            return
        if target is not None and place.text not in target.capabilities.places:
            serves = " and ".join(f"`{x}`" for x in sorted(target.capabilities.places))
            fits = [name for name, cls in targets().items() if place.text in cls.capabilities.places]
            help = f"targets for `{place.text}`: {', '.join(fits)}" if fits else None
            message = f"target `{deploy.target.text}` does not run on `{place.text}`"
            self.report.error("E0213", message, deploy.target.span, f"it runs on {serves}", help=help)
        without = [device for device in self.devices if not device.has_npu]
        if place.text == "npu" and without:
            message = f"`{without[0].name}` has no NPU"
            self.report.error("E0214", message, place.span, help="deploy on `cpu`, or name a chip as the device")

    def check_speculate(
        self,
        speculate: ast.Speculate,
        deploys: Mapping[str, Deploy],
        models: Mapping[str, ModelDecl],
        pipelines: Mapping[str, PipelineDecl],
    ) -> Speculate | None:
        """The resolved `speculate` line; None after an error in it.

        Both models have to be deployed and share a tokenizer, and the target's pipeline needs a bucket of k + 1 tokens.
        """
        before = self.report.errors
        owner = f"speculate {speculate.draft.text} -> {speculate.target.text}"
        values = self.reader.read(speculate.settings, SpeculateBlock, owner, speculate.span)
        if speculate.draft.text == speculate.target.text:
            help = "the draft is a smaller model with the same tokenizer"
            self.report.error("E0208", "draft and target are the same model", speculate.target.span, help=help)
        written = {deploy.model.text for deploy in self.declared.deploys}
        for name in (speculate.draft, speculate.target):
            known = self._known(name, self.declared.models, "model", "E0105")
            if known and name.text not in written and not self.loaded.lost_names("deploy"):
                help = f"add `deploy {name.text} on cpu as …`"
                self.report.error("E0209", f"`{name.text}` speculates but is not deployed", name.span, help=help)
        if values is None or self.report.errors > before:
            return None
        block = SpeculateBlock(**values[0])
        self._same_tokens(speculate, models)
        self._larger_draft(speculate, models)
        deploy = deploys.get(speculate.target.text)
        pipeline = pipelines.get(deploy.pipeline) if deploy is not None and deploy.pipeline else None
        auto = isinstance(block.k, str)
        k = min(3, block.tree or 3) if isinstance(block.k, str) else block.k
        line = Speculate(
            draft=speculate.draft.text,
            target=speculate.target.text,
            k=k,
            accept="greedy" if block.accept == "greedy" else "sample",
            span=speculate.span,
            source="prompt" if block.source == "prompt" else "draft",
            auto=auto,
            tree=block.tree,
            overlap=block.overlap,
        )
        self._tree(speculate, line, deploy)
        self._lanes(speculate, line, deploys)
        if pipeline is not None and (line.tree or not auto):
            self._bucket(line, pipeline)
        return line

    def _tree(self, speculate: ast.Speculate, line: Speculate, deploy: Deploy | None) -> None:
        """A tree holds the k tokens of its longest path at least, and goes to an engine that takes a mask."""
        if not line.tree:
            return
        at = _setting(speculate, "tree")
        if line.tree < line.k:
            help = f"each of the k calls of the draft adds a token: `tree = {max(2 * line.k, 8)}`, or a smaller k"
            self.report.error("E0203", f"a tree of {line.tree} tokens has no room for k = {line.k}", at, help=help)
        if deploy is not None and find_target(deploy.target).engine != "chain":
            chained = [name for name, cls in targets().items() if cls.engine == "chain"]
            message = f"`{line.target}` cannot verify a tree: the engine of `as {deploy.target}` takes no mask"
            help = f"leave out `tree`, or deploy the target as {join_or(sorted(chained))}"
            self.report.error("E0240", message, at, help=help)

    def _lanes(self, speculate: ast.Speculate, line: Speculate, deploys: Mapping[str, Deploy]) -> None:
        """Models overlap that run on two devices; on one each would wait for the other."""
        pair = [deploys.get(name) for name in (line.draft, line.target)]
        places = {deploy.device for deploy in pair if deploy is not None}
        if line.overlap and len(places) == 1 and None not in pair:
            message = f"nothing overlaps: `{line.draft}` and `{line.target}` both run on the {places.pop().upper()}"
            help = f"deploy one of them elsewhere, e.g. `deploy {line.target} on npu …`, or leave out `overlap`"
            self.report.error("E0241", message, _setting(speculate, "overlap"), help=help)

    def _larger_draft(self, speculate: ast.Speculate, models: Mapping[str, ModelDecl]) -> None:
        """W0305 where the draft computes more per token than the target that checks it."""
        draft, target = (models.get(name.text) for name in (speculate.draft, speculate.target))
        if draft is None or target is None or draft.arch is None or target.arch is None:
            return
        weights = [sum(n * k for n, k in model.arch.linears().values()) for model in (draft, target) if model.arch]
        if weights[0] > weights[1]:
            message = (
                f"the draft `{draft.name}` is larger than the target `{target.name}`: "
                f"{weights[0] / 1e6:.1f} M against {weights[1] / 1e6:.1f} M weights in its linears"
            )
            help = f"a draft has to be the cheaper one: `speculate {target.name} -> {draft.name}`"
            pair = (draft.name, target.name)
            self.report.warning("W0305", message, speculate.draft.span, help=help, models=pair)

    def _same_tokens(self, speculate: ast.Speculate, models: Mapping[str, ModelDecl]) -> None:
        pair = [models.get(name.text) for name in (speculate.draft, speculate.target)]
        for name, model in zip((speculate.draft, speculate.target), pair, strict=True):
            if model is not None and model.source.tokenizer_folder is None:
                message = f"`{name.text}` is read by `{model.source.reader.word}`, which brings no tokenizer"
                self.report.error("E0217", message, name.span, help="speculation needs two language models")
                return
        draft, target = pair
        if draft is None or target is None:
            return
        folders = [draft.source.tokenizer_folder, target.source.tokenizer_folder]
        one, other = [folder / "tokenizer.json" for folder in folders if folder is not None]
        try:
            why = disagreement(one, other)
        except PlanError as error:
            self.report.take(error, speculate.span)
            return
        if why is not None:
            message = f"the tokenizers of `{draft.name}` and `{target.name}` disagree: {why}"
            help = "draft and target have to share a tokenizer"
            self.report.error("E0308", message, speculate.span, help=help)

    def _bucket(self, line: Speculate, pipeline: PipelineDecl) -> None:
        """A round hands the target the drafted tokens and the one before them: a bucket takes them in one call."""
        for step in pipeline.steps:
            tokens = sorted({tokens for tokens, _ in step.demands.buckets})
            if not tokens or any(line.verified_by(own) for own in tokens):
                continue
            wanted = ", ".join(map(str, sorted({*tokens, line.tokens})))
            message = f"no bucket of {line.tokens} tokens for the rounds of speculation"
            help = f"k = {line.k} needs a bucket of k + 1: `tokens = [{wanted}]`"
            if line.tree:
                message = f"a tree of {line.tree} tokens and the one before it fit no bucket"
                largest = tokens[-1]
                help = f"the largest takes {largest} tokens: `tree = {largest - 1}` or less, or `tokens = [{wanted}]`"
            also = [Label(step.span, f"buckets of {', '.join(map(str, tokens))} tokens")]
            self.report.error("E0210", message, line.span, also=also, help=help)


def _setting(speculate: ast.Speculate, key: str) -> Span:
    """Where a speculate line writes `key`."""
    return next((setting.span for setting in speculate.settings if setting.key.text == key), speculate.span)


def _place(deploy: ast.Deploy, key: str) -> Span:
    """Where a deploy line writes `key`."""
    return next((setting.span for setting in deploy.settings if setting.key.text == key), deploy.span)
