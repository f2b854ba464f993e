"""The plainest target: the module as ONNX files with one data file of weights, for ONNX Runtime on a CPU.

It serves models deployed on the CPU and the CPU parts beside an NPU. Heavy work is in `emit.py`; this module is what
the plan's checker reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...compiler.emit.capabilities import Capabilities, Refusal
from ...compiler.emit.engine_protocols import GraphSession
from ...compiler.emit.packed_store import STORE_DOC, STORE_WORDS, STORES, refuse_dense, wants_packed
from ...compiler.emit.sparse_form import SparseForm, expanded
from ...compiler.emit.target import CheckRequest, Emission, EmitJob, TakesRequest, Target
from ...compiler.plan.parameters import param

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class OrtOptions:
    """What `as ort { … }` takes."""

    format: str = param(
        "matmulnbits",
        doc="operators for quantised linears: ONNX Runtime's MatMulNBits, or standard DequantizeLinear and MatMul",
        choices=("matmulnbits", "dequantize"),
    )
    compute: str = param(
        "float32",
        doc="type in which MatMulNBits multiplies; int8: activations are rounded block by block at run time, which is "
        "faster and less exact",
        choices=("float32", "int8"),
        goes_with=("format", ("matmulnbits",)),
    )
    floats: str = param(
        "auto",
        doc="type in which weights that are not quantised are stored; auto: float16 in CPU parts beside an NPU, which "
        "computes with 16 bits at most, else float32",
        choices=("auto", "float32", "float16"),
    )
    store: str = param("dense", doc=STORE_DOC, choices=STORES, also_called=STORE_WORDS)


class OrtTarget(Target):
    """ONNX files with external weights, for ONNX Runtime on a CPU."""

    name: ClassVar[str] = "ort"
    float_bytes: ClassVar[float] = 4.0
    imports: ClassVar[tuple[str, ...]] = ("edgec.targets.ort.emit",)
    also_called: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnxruntime_genai", "cpu")
    Options: ClassVar[type] = OrtOptions
    capabilities: ClassVar[Capabilities] = Capabilities(
        frozenset({"cpu"}),
        widths={2: 0, 4: 0, 8: 0},
        minimums=True,
        table_lookup=True,
        beside=True,
        caches=("fp16", "uint4"),
        chooses_channels=True,
        orders=frozenset({"by_kind"}),
    )

    def mode(self, options: OrtOptions) -> str:
        """ONNX Runtime; `int8` rounds the inputs of linears."""
        return "ONNX Runtime" + (" with `compute = int8`" if options.compute == "int8" else "")

    def looks_at_graphs(self, request: CheckRequest) -> bool:
        """For packed files alone: whether a weight is sparse is told by the graphs."""
        return wants_packed(request.deploy.options)

    def takes(self, request: TakesRequest) -> Iterable[Refusal]:
        """Everything, but packed files where nothing is sparse."""
        return refuse_dense(request.options, request.parts)

    def emit(self, job: EmitJob) -> Emission:
        """Write the ONNX file and its external data; see `emit.py`."""
        from .emit import emit

        return emit(job)

    def workspace(self, node: ir.Node, options: OrtOptions) -> int:
        """Of MatMulNBits, see `workspace.py`."""
        from .workspace import workspace

        return workspace(node, options)

    def verify_part(self, bundle: Path, part: dict[str, Any]) -> Sequence[str]:
        """What is wrong with a written part, one sentence each; see `verify.py`."""
        from .verify import verify_part

        return verify_part(bundle, part)

    def open_graph(self, bundle: Path, part: dict[str, Any], bucket: str) -> GraphSession:
        """One graph of a part in an ONNX Runtime session; see `session.py`."""
        from .session import open_graph

        return open_graph(bundle, part, bucket)

    def open_reference(self, bundle: Path, part: dict[str, Any], bucket: str) -> GraphSession:
        """The graph with standard operators in place of ONNX Runtime's own, not optimised; see `session.py`."""
        from .session import open_reference

        return open_reference(bundle, part, bucket)

    def sparse_form(self, part: dict[str, Any]) -> SparseForm:
        """Its kernels have no form for patterns."""
        return expanded("ONNX Runtime")

    def emission_bound(self, part: dict[str, Any]) -> float:
        """Sums in another order; with `compute = int8` or tables of int8 in steps of 1/127, layers deep; of 11 bits."""
        details = part.get("details", {})
        if "int8" in (details.get("compute"), details.get("lookup")):
            return 0.15
        return 0.01 if details.get("lookup") == "fp16" else 2e-3
