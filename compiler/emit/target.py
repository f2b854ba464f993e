"""What an emitter is: it takes the parts of a placed, static (or dynamic) module and writes what a device loads.

A *part* is a stretch of a model that runs on one device: the same stretch in every bucket. The driver cuts a model
into parts (`partition/`), hands each device's parts to the target that serves it (CPU parts beside an NPU go to
`ort`), and collects the manifest's entries. The same target opens its parts again to run them on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..ir.sparse_pattern import PAIRS
from .capabilities import Capabilities, Refusal, Wording
from .engine_protocols import CallTime, GraphSession
from .packed_store import wants_packed
from .part import Part
from .sparse_form import SparseForm, expanded
from .stored_weight import StoredWeight
from .unit import Unit

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..diagnostics.diagnostic import Diagnostic, Span
    from ..ir.decoder_arch import DecoderArch
    from ..ir.module import Module
    from ..ir.weights import Weight
    from ..pipeline.step import Step
    from ..plan.devices import Device
    from ..plan.plan import Deploy, Plan
    from .conformance.proof import Prover
    from .engine_protocols import LanguageModel
    from .sparse_integers import SparseIntegers


@dataclass(frozen=True)
class CheckRequest:
    """What is known before any weight is read: the plan, one deploy line, its steps, the model's config."""

    plan: Plan
    deploy: Deploy
    steps: tuple[Step, ...]
    device: Device
    arch: DecoderArch | None  # None: an imported ONNX graph


@dataclass
class TakesRequest:
    """The parts of a dry module that a target would emit: every shape, format and place, and no weight's numbers."""

    module: Module
    parts: list[Part]
    device: Device
    options: Any  # the target's Options
    beside: bool = False  # the model is deployed as another target, which leaves these parts to this one


@dataclass
class EmitJob:
    """Everything an emitter needs. Files go below `directory`, the bundle's folder being made."""

    module: Module
    parts: list[Part]
    directory: Path  # the bundle's root while it is being made
    folder: str  # the model's folder in it: "target"
    device: Device
    options: Any  # the target's Options
    beside: bool = False  # the model is deployed as another target, which leaves these parts to this one
    origin: Span | None = None  # the deploy line
    progress: Callable[[str], None] = lambda _text: None
    prove: bool = False  # run what no conformance table holds, where the dry run could not see it
    devices: tuple[Device, ...] = ()  # all chips the bundle is for, `device` first; empty: `device` alone
    tokenizer_source: Path | None = None  # the folder of the model's tokenizer, where its source is
    tokenizer_folder: str | None = None  # and in the bundle, where it is put later
    slower: float = 2.0  # the target's
    jobs: int = 1  # files that may be made at the same time
    keep: bool = False  # keep in the cache what took long, so that no later compile makes it again
    lowered: Sequence[Mapping[str, Any]] = ()  # what `Target.lower` said of the same parts before, if it is known
    ready: Callable[[], None] = lambda: None  # returns when units that other processes make now are in the cache

    @property
    def chips(self) -> tuple[Device, ...]:
        """Every device that files are needed for, `device` first."""
        return self.devices or (self.device,)


@dataclass(repr=False)
class Emission:
    """What an emitter wrote: manifest entries per part (see manifest.schema.json), libraries a device needs."""

    engine: str  # "chain": parts run along a schedule; otherwise an engine that runs the whole model
    parts: dict[str, dict[str, Any]]
    _: KW_ONLY  # a field that is put in must not shift the others
    libraries: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    kv: dict[str, Any] = field(default_factory=dict)  # layout of the K/V cache, for the manifest
    stored: dict[str, StoredWeight] = field(default_factory=dict)  # by linear; without a row: as the module has it
    layout: dict[str, Any] = field(default_factory=dict)  # where kinds of weights lie, where the plan orders them
    sparse: list[SparseIntegers] = field(default_factory=list)  # what can be packed, where the plan asks for that
    units: list[dict[str, Any]] = field(default_factory=list)  # the compiles that were kept, as `Target.lower` says
    proof: dict[str, Any] = field(default_factory=dict)  # by graph, what held the parts together right

    def __repr__(self) -> str:
        return f"<emission: {self.engine}, {', '.join(self.parts)}>"


def undeployable(target: type[Target], request: CheckRequest, wording: Wording) -> Iterator[Diagnostic]:
    """What of a deploy line and its pipeline the target has no form for, whatever the model."""
    from ..diagnostics.diagnostic import Diagnostic, Label

    capabilities, deploy = target.capabilities, request.deploy
    also = (Label(deploy.span, f"deployed as {target.name} here"),)
    for step in request.steps:
        for found in capabilities.takes(target.name, step.demands, wording):
            message = found.message.format(step.pass_name)
            yield Diagnostic(found.code, message, Label(step.span, "not for this deploy"), also, found.help)
        if step.demands.npu is not None and deploy.device != "npu":
            message = (
                f"`{step.demands.npu}` divides linears between an NPU and the CPU, and `{deploy.model}` has no NPU"
            )
            help = f"leave it out, or deploy `{deploy.model}` on npu"
            yield Diagnostic("E0435", message, Label(step.span, "not for this deploy"), also, help)
        if step.demands.sparse == PAIRS and PAIRS not in capabilities.patterns and not wants_packed(deploy.options):
            message = f"`as {target.name}` has no use for pairs: it stores them like dense weights"
            help = "`pattern = 2:4` costs less quality in as many zeros"
            yield Diagnostic("W0309", message, Label(step.place("pattern")), also, help, severity="warning")
    for found in capabilities.takes_cache(target.name, deploy.kv, wording):
        yield Diagnostic(found.code, found.message, Label(deploy.span), help=found.help)


class Target:
    """Base of all targets. The docstring's first line is its help; `Options` is a dataclass of params."""

    name: ClassVar[str]
    Options: ClassVar[type]
    capabilities: ClassVar[Capabilities]
    engine: ClassVar[str] = "chain"
    seconds_per_weight: ClassVar[float] = 1e-10  # of a linear and a token, on two cores: what `engine_time` goes by
    slower: ClassVar[float] = 2.0  # times the oracle's seconds that a run takes on this machine, the process with it
    float_bytes: ClassVar[float] = 2.0  # of a float in its files and in its cache
    imports: ClassVar[tuple[str, ...]] = ()  # modules of its work, imported once for the processes of all actions
    also_called: ClassVar[tuple[str, ...]] = ()  # what people type who mean it: engines and formats it writes for

    def mode(self, options: Any) -> str:
        """What runs a model of this target on this machine, in words, with the options that change its numbers."""
        return f"`as {self.name}`"

    def exact_instead(self, folder: Path, options: Any, parts: Mapping[str, dict[str, Any]]) -> str | None:
        """Turn a model that is written in `folder` to the engine's exact mode, if its options leave that open.

        `parts`: its entries of the manifest, which say the mode too.

        Called where the mode it was written in was measured to cost quality. What runs it then, in words; None: nothing
        was changed.
        """
        return None

    def check(self, request: CheckRequest) -> Sequence[Diagnostic]:
        """Mistakes that can be seen before any weight is read. Must not import numpy, onnx or an engine."""
        return ()

    def looks_at_graphs(self, request: CheckRequest) -> bool:
        """Whether what this target takes of a deploy can only be told from its graphs, by `takes`."""
        return type(self).takes is not Target.takes

    def takes(self, request: TakesRequest) -> Iterable[Refusal]:
        """Everything of the parts that `emit` would refuse. Weights are dry (`ir.weights.DryWeight`): reading one
        ends the dry run. What only numbers or an engine can tell is left to `emit`.
        """
        return ()

    def prover(self, request: TakesRequest) -> Prover | None:
        """What runs the uses of these parts that no table holds (`Refusal.unproven`); None: they are refused."""
        return None

    def cache_width(self, device: Device) -> float:
        """Bytes of a cached value on `device` where the plan's `kv` names no type."""
        return self.float_bytes

    def workspace(self, node: ir.Node, options: Any) -> int:
        """Bytes that the engine takes inside an op of a static graph while it runs, beside the values between ops."""
        return 0

    def lacking(self, graph: ir.Graph) -> Sequence[ir.Node]:
        """The ops of `graph` that the target has no form for, whatever their shapes: they run on the CPU beside it."""
        return ()

    def before_cut(self, module: Module, options: Any) -> Sequence[str]:
        """Mark ops of a placed module that have to be in parts of their own (`annotations.SHARD`); notes for people."""
        return ()

    def emit(self, job: EmitJob) -> Emission:
        """Write the parts, read them back, and return the manifest's entries."""
        raise NotImplementedError(f"target `{self.name}` cannot emit")

    def units(self, parts: Sequence[Part], options: Any, devices: Sequence[Device]) -> Sequence[Unit]:
        """The compiles of the parts that any process can do from what `lower` left in the cache; from graphs alone.

        Weights may be dry. Empty: the target emits in one go.
        """
        return ()

    def lower(self, job: EmitJob) -> Sequence[dict[str, Any]]:
        """Do what comes before the units and describe each as JSON, in the order of `units`; `input` and `output` are
        entries of the cache, as kind and key. Nothing is written below `job.directory`.
        """
        return ()

    def make_unit(self, facts: dict[str, Any]) -> tuple[float, int]:
        """Make a unit that `lower` described and leave it in the cache; its seconds, and its engine's peak in bytes."""
        raise NotImplementedError(f"target `{self.name}` has no units")

    def open_graph(self, bundle: Path, part: dict[str, Any], bucket: str) -> GraphSession:
        """Open one graph of a part of an emitted bundle to run it here."""
        raise NotImplementedError(f"target `{self.name}` has no graphs to run")

    def open_oracle(self, bundle: Path, part: dict[str, Any], bucket: str) -> GraphSession:
        """The same graph in ONNX Runtime, for targets whose engine is slow here; others open their own engine."""
        return self.open_graph(bundle, part, bucket)

    def open_reference(self, bundle: Path, part: dict[str, Any], bucket: str) -> GraphSession | None:
        """The same graph as the passes left it: plain ops in float32, in ONNX Runtime. `verify` tells by it what the
        engine is off from what quantisation is; None: an engine of whole models, or nothing such is at hand.
        """
        return None

    def shipped_weights(self, bundle: Path, part: dict[str, Any]) -> Mapping[str, Weight] | None:
        """Of an engine of whole models: the float32 rows [N, K] that the part's files hold, by linear, lazily.

        None: they cannot be read from the files.
        """
        return None

    def stands_in(self, part: dict[str, Any]) -> str:
        """What `open_graph` runs in the place of the shipped file, in a word; empty where that file itself runs."""
        return ""

    def sparse_form(self, part: dict[str, Any]) -> SparseForm:
        """What the engine makes of the sparse weights of a part that was emitted."""
        return expanded(f"`as {self.name}`")

    def emission_bound(self, part: dict[str, Any]) -> float:
        """The relative error up to which the engine's outputs may differ from the reference's by rounding alone."""
        return 1e-2

    def call_time(self, bundle: Path, part: dict[str, Any], bucket: str, tokens: int) -> CallTime | None:
        """How long a call of `tokens` positions takes here, where that is long; None: not worth saying."""
        return None

    def open_model(self, bundle: Path, model: dict[str, Any], manifest: dict[str, Any]) -> LanguageModel:
        """Open a whole model, for engines that are not chains of graphs."""
        raise NotImplementedError(f"target `{self.name}` does not run whole models")

    def verify_part(self, bundle: Path, part: dict[str, Any]) -> Sequence[str]:
        """What of a part's manifest entry (graphs, tensors, shapes) its file does not hold; empty when all is there."""
        return ()

    def verify_deployment(self, bundle: Path, manifest: dict[str, Any], model: str) -> Sequence[str]:
        """What of a whole model, on the device whose files the manifest names, a runtime of the engine's own would take
        wrongly; empty when nothing is.
        """
        return ()

    def weights_read_back(self, bundle: Path, part: dict[str, Any]) -> tuple[dict[str, int] | None, Sequence[str]]:
        """Where something stands in for a part's file: the `bytes` of the weights, `of` all, that the file holds as
        what stands in has them, and what of them it holds otherwise. (None, ()): nothing was compared.
        """
        return None, ()

    def inspect(self, path: Path) -> dict[str, Any] | None:
        """Describe a file this target writes; None if it is not one of its own."""
        return None
