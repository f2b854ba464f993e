"""MNN on a phone's CPU: an MNN-LLM bundle for a decoder, a plain `.mnn` for any other graph."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...compiler.diagnostics.diagnostic import Diagnostic, Label
from ...compiler.emit.capabilities import Capabilities, Refusal
from ...compiler.emit.engine_lowering import FALLBACKS, LOWERINGS, left_to_the_engine
from ...compiler.emit.engine_protocols import GraphSession
from ...compiler.emit.packed_store import STORE_DOC, STORE_WORDS, STORES, refuse_dense
from ...compiler.emit.sparse_form import SparseForm, expanded
from ...compiler.emit.target import CheckRequest, Emission, EmitJob, TakesRequest, Target
from ...compiler.plan.parameters import param
from .check import no_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from ...compiler.emit.conformance.proof import Prover
    from ...compiler.emit.engine_protocols import LanguageModel
    from ...compiler.ir.weights import Weight
    from ...compiler.plan.devices import Device


_LEAVE_OUT = "leave `{}` out of the pipeline of this deploy"


_HALVES = ("aarch64", "arm64")  # CPUs that compute in float16


@dataclass(frozen=True)
class MnnOptions:
    """How MNN runs the model."""

    memory: str = param(
        "low",
        doc="memory mode of the engine; low: quantised weights stay packed and linears round their inputs to int8; "
        "normal: weights are expanded to float32 when the model is loaded; auto: low, and normal where low is measured "
        "to cost more than 1 % on the plan's `evaluation` text",
        choices=("low", "normal", "auto"),
    )
    store: str = param("dense", doc=STORE_DOC, choices=STORES, also_called=STORE_WORDS)
    lowering: str = param(
        "auto",
        doc="whose rules make a general graph; auto: edgec's where they cover it, else MNN's own converter, proven on "
        "the model itself; edgec, engine: the one alone",
        choices=LOWERINGS,
    )
    fallback: str = param(
        "cpu",
        doc="nodes of a general graph that MNN lacks or computes wrong; cpu: ONNX Runtime runs them in parts of their "
        "own; none: they are refused, all at once",
        choices=FALLBACKS,
    )
    threads: int = param(4, doc="number of CPU threads, written to the bundle's config.json", minimum=1, maximum=64)

    @property
    def written(self) -> str:
        """The mode a model is first written in: `auto` begins as `low`."""
        return "low" if self.memory == "auto" else self.memory


class MnnTarget(Target):
    """MNN for the CPU: MNN-LLM bundles with edgec's integers and scales, and plain `.mnn` graphs."""

    name: ClassVar[str] = "mnn"
    imports: ClassVar[tuple[str, ...]] = ("edgec.targets.mnn.emit",)
    also_called: ClassVar[tuple[str, ...]] = ("mnn_llm", "alibaba_mnn")
    Options: ClassVar[type] = MnnOptions
    capabilities: ClassVar[Capabilities] = Capabilities(
        frozenset({"cpu"}),
        widths={bits: 1 << bits for bits in (2, 3, 4, 8)},  # the code book
        minimums=True,
        orders=frozenset({"by_kind"}),
    )
    engine: ClassVar[str] = "mnn-llm"

    def cache_width(self, device: Device) -> float:
        """Half floats where the CPU computes in them, as `precision = low` asks: elsewhere the cache is float32."""
        return 4.0 if device.is_host and platform.machine() not in _HALVES else 2.0

    def mode(self, options: MnnOptions) -> str:
        """MNN's own engine; `low` rounds the inputs of linears."""
        return f"MNN with `memory = {options.written}`"

    def exact_instead(self, folder: Path, options: MnnOptions, parts: Mapping[str, dict[str, Any]]) -> str | None:
        """With `memory = auto`, turn the written model to `normal`; what then runs it."""
        if options.memory != "auto":
            return None
        from .emit import set_memory

        set_memory(folder, "normal", parts)
        return "MNN with `memory = normal`"

    def check(self, request: CheckRequest) -> Sequence[Diagnostic]:
        """MNN takes a module whole, on the CPU and with dynamic shapes."""
        found = []
        folder = request.plan.models[request.deploy.model].source.tokenizer_folder
        if folder is not None and not (folder / "tokenizer.json").is_file():
            found.append(no_tokenizer(folder, request.deploy.span))
        if (
            getattr(request.deploy.options, "memory", "") == "auto"
            and request.arch is not None
            and request.plan.evaluation is None
        ):
            message = "`memory = auto` needs a text to be measured on"
            help = 'add `evaluation { text = "…"  windows = 32 }`, or choose `low` or `normal`'
            found.append(Diagnostic("E0216", message, Label(request.deploy.span), help=help))
        for step in request.steps:
            at = Label(step.span, "not for this deploy")
            also = (Label(request.deploy.span, "deployed to MNN here"),)
            demands = step.demands
            if demands.static:
                message = f"MNN takes any number of tokens, and `{step.pass_name}` makes static shapes"
                found.append(Diagnostic("E0704", message, at, also, _LEAVE_OUT.format(step.pass_name)))
            elif demands.places - self.capabilities.places:
                message = f"MNN runs a model whole on the CPU, and `{step.pass_name}` puts a part of it on the NPU"
                found.append(Diagnostic("E0708", message, at, also, _LEAVE_OUT.format(step.pass_name)))
        return found

    def looks_at_graphs(self, request: CheckRequest) -> bool:
        """Always: a decoder's graph is one that MNN's engine takes where only edgec's passes change it, its tokenizer
        may not be.
        """
        return True

    def takes(self, request: TakesRequest) -> Iterable[Refusal]:
        """Ops and weight formats that MNN has no form for, or is not known to compute right."""
        from .check import refuse_order, refuse_tokenizer, refused_graph, refused_parts

        if request.beside:
            return refused_parts(request)
        refuse_tokenizer(request.module)
        dense = [*refuse_dense(request.options, request.parts), *refuse_order(request.module)]
        refused = refused_graph(request)
        if request.module.arch is None and left_to_the_engine(request.options, refused):
            return dense
        return [*dense, *refused]

    def prover(self, request: TakesRequest) -> Prover:
        """Runs uses on MNN; see `conformance/prove.py`."""
        from .conformance.prove import MnnProver

        return MnnProver(request.parts)

    def emit(self, job: EmitJob) -> Emission:
        """Write the model's folder and read it back."""
        from .emit import emit

        return emit(job)

    def open_graph(self, bundle: Path, part: dict[str, Any], bucket: str) -> GraphSession:
        """A plain graph in a child process, in the memory mode it ships with."""
        from .run.engine import open_graph

        return open_graph(bundle, part, bucket)

    def open_reference(self, bundle: Path, part: dict[str, Any], bucket: str) -> GraphSession | None:
        """Of a part beside another engine its graph in plain operators, on the weights that MNN reads."""
        from .run.engine import open_plain

        return open_plain(bundle, part, bucket)

    def open_model(self, bundle: Path, model: dict[str, Any], manifest: dict[str, Any]) -> LanguageModel:
        """The LLM bundle in a child process, in the memory mode it ships with."""
        from .run.engine import open_model

        return open_model(bundle, model, manifest)

    def shipped_weights(self, bundle: Path, part: dict[str, Any]) -> Mapping[str, Weight] | None:
        """What the weight file of an LLM bundle holds; see `file/shipped.py`."""
        from .file.shipped import shipped_weights

        return shipped_weights(bundle / part["file"])

    def sparse_form(self, part: dict[str, Any]) -> SparseForm:
        """MNN has no form for patterns in memory."""
        return expanded("MNN")

    def emission_bound(self, part: dict[str, Any]) -> float:
        """Half floats; with `memory = low` inputs in steps of 1/127, layers deep. Floats that are read as they lie in
        the file, by both sides, are sums in another order.
        """
        weights = part["details"].get("weights", {}).values()
        if part["details"].get("plain") and all(one.startswith("float") for one in weights):
            return 2e-3
        return 0.15 if part["details"].get("memory") == "low" else 0.02

    def inspect(self, path: Path) -> dict[str, Any] | None:
        """Ops, tensors and weight formats of a `.mnn`."""
        if path.suffix != ".mnn":
            return None
        from .file.read_back import inspect

        return inspect(path)
