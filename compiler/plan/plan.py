"""A checked plan: every name resolved, every value of its type, every step constructed.

The checker of `edgec.dsl` makes it, the driver reads it. Each part keeps the `Span` of the line it came from,
so that a failure that shows only later still points into the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..calibration.calibration_text import Calibration
from ..diagnostics.diagnostic import Diagnostic, Span
from ..ir.placement import Place
from ..pipeline.step import Step
from .parameters import parameters

if TYPE_CHECKING:
    from ..ir.decoder_arch import DecoderArch
    from ..sources.source import Source
    from .devices import Device

Comparison = Literal["<=", ">=", "<", ">"]


@dataclass(frozen=True)
class ModelSource:
    """`hf("folder")`: how a model is read and from where; `text` is the path as the plan wrote it."""

    reader: Source
    path: Path
    text: str

    @property
    def files(self) -> Sequence[Path]:
        """Every file the model consists of."""
        return self.reader.files(self.path)

    @property
    def tokenizer_folder(self) -> Path | None:
        """The folder of the model's tokenizer files; None for models without a tokenizer."""
        return self.reader.tokenizer_folder(self.path)


@dataclass(frozen=True)
class ModelDecl:
    """A `model` block: name, source, the tokens its K/V cache holds; `arch` is None for a plain graph."""

    name: str
    source: ModelSource
    context: int
    span: Span
    arch: DecoderArch | None = None


@dataclass(frozen=True)
class Evaluation:
    """Perplexity is measured on the first `windows` windows of 256 tokens of the joined texts."""

    text: tuple[Path, ...]
    windows: int
    span: Span
    engine_time: float = 20.0  # seconds that the engine may take, of each model


@dataclass(frozen=True)
class PipelineDecl:
    """A `pipeline` block: its steps in the order they run."""

    name: str
    steps: tuple[Step, ...]
    span: Span


def resolved_line(step: Step) -> str:
    """A pipeline's line with every value as it was used: lets and `-D` filled in."""
    values = vars(step.pass_)
    written = [one for one in parameters(type(step.pass_)) if one.name in step.settings]
    arguments = ", ".join(f"{one.name} = {one.written(values[one.name])}" for one in written)
    line = f"{step.pass_name} ({arguments})" if arguments else step.pass_name
    for word, names in (("on", step.on or ()), ("except", step.except_)):
        quoted = ", ".join(f'"{name}"' for name in names)
        if names:
            line += f" {word} {quoted if len(names) == 1 else f'[{quoted}]'}"
    return line


@dataclass(frozen=True)
class Deploy:
    """`options` is an instance of the target's `Options`; `kv` the type of the K/V cache."""

    model: str
    device: Place
    pipeline: str | None
    target: str
    options: object
    kv: str
    span: Span
    accept: tuple[str, ...] = ()  # codes of warnings that are known
    reason: str = ""  # why they are accepted
    decided: tuple[Step, ...] | None = None  # its pipeline's lines with every `auto` settled for this model


@dataclass(frozen=True)
class Speculate:
    """The `speculate` line: `draft` proposes `k` tokens a round, `target` accepts by the rule `accept`."""

    draft: str
    target: str
    k: int
    accept: Literal["greedy", "sample"]
    span: Span
    source: Literal["draft", "prompt"] = "draft"  # prompt: what stood in the text before is proposed too
    auto: bool = False  # `k = auto`: chosen from the acceptance and from what the two models cost on the device
    tree: int = 0  # tokens of a round's tree, 0: a chain of k
    overlap: bool = False  # the draft works beside the target

    @property
    def tokens(self) -> int:
        """Tokens that the target reads in a round: the text's last one, and the chain or the tree."""
        return (self.tree or self.k) + 1

    def verified_by(self, tokens: int) -> bool:
        """Whether a bucket of `tokens` serves the rounds: a chain has its own, a tree fits into any that holds it."""
        return tokens >= self.tokens if self.tree else tokens == self.tokens


@dataclass(frozen=True)
class Require:
    """`subject op value`, the value in bytes, or times the baseline; `text` is the line as written."""

    subject: str
    op: Comparison
    value: float
    relative_to_baseline: bool
    text: str
    span: Span

    def holds(self, measured: float, baseline: float = 1.0) -> bool:
        """Whether `measured` meets the bound; `baseline` is the float model's own value."""
        bound = self.value * baseline if self.relative_to_baseline else self.value
        return {
            "<=": measured <= bound,
            "<": measured < bound,
            ">=": measured >= bound,
            ">": measured > bound,
        }[self.op]


@dataclass(frozen=True)
class Goal:
    """`goal = decode.rate`: what `edgec tune` makes best among plans that meet every `require` line."""

    subject: str
    span: Span


@dataclass(frozen=True, repr=False)
class Plan:
    """`sources` holds the text of every file read (for code frames), `defines` the values of all `let`s.

    `tuned`: the `let`s that are declared as `tune(…)`, with their values as written.
    """

    name: str
    path: Path
    models: dict[str, ModelDecl]
    devices: tuple[Device, ...]
    calibration: Calibration | None
    evaluation: Evaluation | None
    pipelines: dict[str, PipelineDecl]
    deploys: tuple[Deploy, ...]
    speculates: tuple[Speculate, ...]
    requires: tuple[Require, ...]
    defines: dict[str, object]
    sources: dict[str, str] = field(default_factory=dict)
    overridden: tuple[str, ...] = ()  # the lets that `-D` gave another value
    warnings: tuple[Diagnostic, ...] = ()
    tuned: dict[str, tuple[str, ...]] = field(default_factory=dict)
    goal: Goal | None = None

    def __repr__(self) -> str:
        lines = [f"{one.model} on {one.device} as {one.target}" for one in self.deploys]
        return f"<plan {self.name}: {', '.join(lines) or 'deploys nothing'}>"

    @property
    def judged(self) -> frozenset[str]:
        """The models whose perplexity a `require` line bounds."""
        subjects = (line.subject.rpartition(".") for line in self.requires)
        return frozenset(model for model, _, measure in subjects if measure == "perplexity")

    def steps(self, deploy: Deploy) -> tuple[Step, ...]:
        """The lines of the pipeline that `deploy` names, as they were decided for its model."""
        if deploy.decided is not None:
            return deploy.decided
        return self.pipelines[deploy.pipeline].steps if deploy.pipeline else ()
