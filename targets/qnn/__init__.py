"""The qnn target: HTP context binaries for Snapdragon NPUs, with K/V and tensor names as Genie wants them.

    static graphs --lower--> fp16 or integer graphs --legality--> HTP compiler --> one binary, weights shared

What runs on this machine is each bucket's unshared twin on the HTP emulator. Heavy imports stay in the functions:
the plan's checker imports this module to learn the options.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...compiler.diagnostics.diagnostic import PlanError
from ...compiler.emit.capabilities import Capabilities, Refusal
from ...compiler.emit.engine_lowering import FALLBACKS, LOWERINGS, left_to_the_engine
from ...compiler.emit.sparse_form import SparseForm, expanded
from ...compiler.emit.target import CheckRequest, Emission, EmitJob, TakesRequest, Target
from ...compiler.ir.sparse_pattern import PAIRS
from ...compiler.plan.parameters import param

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from ...compiler.diagnostics.diagnostic import Diagnostic
    from ...compiler.emit.conformance.proof import Prover
    from ...compiler.emit.engine_protocols import CallTime, GraphSession
    from ...compiler.emit.part import Part
    from ...compiler.emit.unit import Unit
    from ...compiler.ir.module import Module
    from ...compiler.plan.devices import Device


@dataclass(frozen=True)
class QnnOptions:
    """What `as qnn { … }` takes; types come from the pipeline, optimisation is the highest."""

    sparse_store: str = param(
        "auto",
        doc="store weights that `sparsify` made 2:4 (int8) or pairs (int4), per channel beside integer activations, in "
        "HTP's sparse form: five eighths of their bits. auto: where there are such weights; on: it is an error if "
        "there are none; off: stored dense",
        choices=("auto", "on", "off"),
        also_called=("sparse", "sparsity", "sparse_weights", "compress"),
    )
    container: str = param(
        "per_chip",
        doc="several chips in the `device` line: a binary for each, in which buckets share weights; multi_soc: QNN's "
        "own container, one file in which chips share weights and which holds one graph, so one bucket",
        choices=("per_chip", "multi_soc"),
    )
    lowering: str = param(
        "auto",
        doc="whose rules make a general graph; auto: edgec's where they cover it, else the QNN provider's own, proven "
        "on the model itself; edgec, engine: the one alone",
        choices=LOWERINGS,
    )
    fallback: str = param(
        "cpu",
        doc="nodes of a general graph that the NPU lacks or computes wrong; cpu: ONNX Runtime runs them beside it; "
        "none: they are refused, all at once",
        choices=FALLBACKS,
    )
    cpu_parts: str = param(
        "ort",
        doc="what runs the parts beside the NPU, shadows for instance; ort: ONNX Runtime; mnn: MNN, each part that "
        "edgec's rules for it cover, and ONNX Runtime the others, which the compile names",
        choices=("ort", "mnn"),
        also_called=("cpu", "cpu_engine", "cpu_lane", "beside"),
    )
    shard: int | str = param(
        "auto",
        doc="number of consecutive parts the layers are cut into, each a context binary of its own; auto: as few as "
        "keep each below what a device loads (2 GB) and its compile within `memory`",
        choices=("auto",),
        minimum=1,
        also_called=("shards", "num_shards", "splits", "num_splits", "split"),
    )
    memory: int = param(
        8_000_000_000,
        doc="what the compile of one binary is to take at most, by its estimate, where `shard = auto` decides; of the "
        "plan and not of the machine, so that every machine makes the same bundle",
        unit="B",
        minimum=1_000_000_000,
        also_called=("ram", "compile_memory", "max_memory"),
        goes_with=("shard", ("auto",)),
    )


class QnnTarget(Target):
    """HTP context binaries for the NPU of a Snapdragon chip, all buckets in one with shared weights."""

    name: ClassVar[str] = "qnn"
    seconds_per_weight: ClassVar[float] = 1.5e-8  # of the emulator
    slower: ClassVar[float] = 20.0  # a convolutional network on the emulator
    imports: ClassVar[tuple[str, ...]] = ("edgec.targets.qnn.emit",)
    also_called: ClassVar[tuple[str, ...]] = ("htp", "hexagon", "npu", "snpe", "qairt", "genie", "qualcomm", "dlc")
    Options: ClassVar[type] = QnnOptions
    capabilities: ClassVar[Capabilities] = Capabilities(
        frozenset({"npu"}),
        activations=("fp16", "uint16", "uint8"),
        caches=("fp16", "uint8"),
        widths=dict.fromkeys((2, 4, 8), 0),
        integer_widths=dict.fromkeys((4, 8), 0),
        lookups=False,
        table_lookup=True,  # in the parts that stay on the CPU
        patterns=frozenset({"2:4", PAIRS}),
    )
    engine: ClassVar[str] = "chain"

    def check(self, request: CheckRequest) -> Sequence[Diagnostic]:
        """What a plan asks of HTP that it cannot have, before any weight is read; see `check/`."""
        from .check.check import check

        return check(request)

    def takes(self, request: TakesRequest) -> Iterable[Refusal]:
        """Ops without a lowering, and lowerings outside the conformance table."""
        from .check.graphs import refused_graphs
        from .lower.engine import refused_boundary

        try:
            refused = list(refused_graphs(request))
        except PlanError as error:  # a constant that fp16 cannot hold
            if request.module.arch is not None:
                raise
            refused = [Refusal(one.code, one.message) for one in error.diagnostics]
        if request.module.arch is None and left_to_the_engine(request.options, refused):
            return [one for part in request.parts for one in refused_boundary(part.graphs)]
        return refused

    def lacking(self, graph: ir.Graph) -> Sequence[ir.Node]:
        """Standard ops without a lowering, of those that compute activations."""
        from .lower.lowering import without_rule
        from .lower.rules import RULES

        return without_rule(graph, RULES)

    def prover(self, request: TakesRequest) -> Prover:
        """Runs uses on the emulator for the plan's chip; see `conformance/prove.py`."""
        from .conformance.prove import HtpProver
        from .htp.chip import Chip
        from .sparse_store import least_rows

        return HtpProver(Chip.of(request.device), request.parts, least_rows(request.options, request.parts))

    def before_cut(self, module: Module, options: Any) -> Sequence[str]:
        """Mark the layers of each shard; see `shards.py`."""
        from .shards import mark

        return mark(module, options)

    def emit(self, job: EmitJob) -> Emission:
        """Write the context binaries of one part; see `emit.py`."""
        from .emit import emit

        return emit(job)

    def units(self, parts: Sequence[Part], options: Any, devices: Sequence[Device]) -> Sequence[Unit]:
        """A compile for each context binary; see `emit.py`."""
        from .emit import units

        return units(parts, options, devices)

    def lower(self, job: EmitJob) -> Sequence[dict[str, Any]]:
        """Lower and check the graphs, and leave them in the cache."""
        from .emit import lower_alone

        return lower_alone(job)

    def make_unit(self, facts: dict[str, Any]) -> tuple[float, int]:
        """Compile one context binary from graphs in the cache."""
        from .binaries import make_described

        return make_described(facts)

    def mode(self, options: Any) -> str:
        """The emulator computes as the NPU does."""
        return "the HTP emulator"

    def verify_part(self, bundle: Path, part: dict[str, Any]) -> Sequence[str]:
        """What is wrong with a written part, one sentence each; see `verify.py`."""
        from .verify import verify_part

        return verify_part(bundle, part)

    def verify_deployment(self, bundle: Path, manifest: dict[str, Any], model: str) -> Sequence[str]:
        """What Genie would take wrongly, of a model with a `genie_config.json`; see `genie/contract.py`."""
        from ...compiler.bundle.manifest import Manifest
        from .genie.deployment import deployment_problems

        return deployment_problems(Manifest(bundle, manifest), model)

    def weights_read_back(self, bundle: Path, part: dict[str, Any]) -> tuple[dict[str, int] | None, Sequence[str]]:
        """The binary's weights beside those of the graphs that run here; see `verify.py`."""
        from .verify import weights_read_back

        return weights_read_back(bundle, part)

    def open_graph(self, bundle: Path, part: dict[str, Any], bucket: str) -> GraphSession:
        """One graph of a part in the HTP emulator; see `twins.open_twin`."""
        from .twins import open_twin

        return open_twin(bundle, part, bucket)

    def stands_in(self, part: dict[str, Any]) -> str:
        """The twin: a binary whose graphs share weights cannot be loaded on a host."""
        return "twin"

    def open_oracle(self, bundle: Path, part: dict[str, Any], bucket: str) -> GraphSession:
        """The target-level graph, which the HTP compiler was given, in ONNX Runtime."""
        from .twins import open_target_graph

        return open_target_graph(bundle, part, bucket)

    def open_reference(self, bundle: Path, part: dict[str, Any], bucket: str) -> GraphSession:
        """The target-level graph too: HTP rounds what it computes, ONNX Runtime does not."""
        return self.open_oracle(bundle, part, bucket)

    def sparse_form(self, part: dict[str, Any]) -> SparseForm:
        """HTP's own, where the part was compiled with it."""
        details = part["details"]
        if not details.get("sparse_store"):
            return expanded("HTP, compiled without its sparse store,")
        dense, sparse = details["sparse_bytes"]
        why = "HTP reads the packed numbers from memory; its time for them was not measured on a phone"
        return SparseForm("htp", "unknown", why, (dense, sparse))

    def emission_bound(self, part: dict[str, Any]) -> float:
        """Half floats, or integers of 8 and 16 bits, layers deep."""
        return 0.15 if part["details"].get("precision") == "integers" else 0.02

    def call_time(self, bundle: Path, part: dict[str, Any], bucket: str, tokens: int) -> CallTime | None:
        """What the emulator takes for a call; see `call_time.py`."""
        from .call_time import call_time

        return call_time(bundle, part, bucket, tokens)

    def inspect(self, path: Path) -> dict[str, Any] | None:
        """The graphs and tensors of a context binary (`.bin`); None for any other file."""
        if path.suffix != ".bin":
            return None
        from .htp.context_binary import describe

        return describe(path)
