"""Let linears of few bits run by table lookup, where that is faster on the CPU they are deployed on.

    y = x @ (scale * (q - zero))^T   ->   y = LutGemv(x, planes of q, scale, zero)

The integers are written as bit planes. Four bits of a plane number an entry in a table of the 16 signed sums of four
inputs, so that one lookup stands for four multiplications (T-MAC, arXiv 2407.00088). The planes are the only copy: one
token, the few of a speculative round and a whole prompt read the same bytes. The op is `ai.edgec::LutGemv`, whose body
of standard ops gives the same numbers wherever no kernel is registered; the kernels are `compiler/kernels/lookup`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..compiler.ir.levels import Level
from ..compiler.pipeline.demands import Demands
from ..compiler.pipeline.pass_interface import Pass, Scope, Tolerance
from ..compiler.plan.parameters import param

if TYPE_CHECKING:
    from ..compiler.ir.module import Module

_ENTRY = {"int8": 8, "fp16": 16, "float32": 32}  # bits of a sum


@dataclass(frozen=True)
class LutGemv(Pass):
    """Multiply linears of 1 to 4 bits by table lookup, from bit planes."""

    name: ClassVar[str] = "lut_gemv"
    takes: ClassVar[tuple[Level, ...]] = (Level.COMPRESSED,)
    keeps_shapes: ClassVar[bool] = True
    behind: ClassVar[str] = (
        "it multiplies with integers of 1 to 4 bits: put `quantize (weights = int2, block = 32)` in front of it"
    )

    bits: tuple[int, ...] = param(
        (1, 2, 3, 4),
        doc="widths of integers that are taken; others stay as they are",
        choices=(1, 2, 3, 4),
        meant={str(width): f"bits = [{width}]" for width in (1, 2, 3, 4)},
        also_called=("widths", "w_bits"),
    )
    group: int = param(
        4,
        doc="inputs whose signed sums make one table",
        choices=(4,),
        also_called=("g", "group_size", "lut_group"),
    )
    tables: str = param(
        "int8",
        doc="how sums are held; int8: with a step for every block of inputs, which adds about half a percent of noise "
        "to a linear's output; fp16: in 16 bits, within two ten thousandths, one and a half to two times as slow; "
        "float32: exact, two to four times as slow",
        choices=("int8", "fp16", "float32"),
        also_called=("table", "table_type", "lut_type"),
        meant={**dict.fromkeys(("float16", "half", "int16"), "tables = fp16"), "fp32": "tables = float32"},
    )
    when: str = param(
        "auto",
        doc="auto: only linears that run faster so than by ONNX Runtime's own kernel, on `host` measured once for each "
        "shape, for other devices estimated from instructions, cores and memory (`--explain-skips` and the report have "
        "the times); always: all that the op can hold",
        choices=("auto", "always"),
        also_called=("mode", "substitute"),
        meant={"never": "leave the line out.", "force": "when = always"},
    )

    prefill: str = param(
        "gemv",
        doc="how buckets of more than eight tokens multiply; gemv: by lookup too; dequant: by the weights' values, "
        "made anew from the same planes, which was slower in every shape measured (docs/lookup.md); auto: what ran "
        "faster on `host`, elsewhere gemv",
        choices=("gemv", "dequant", "auto"),
        also_called=("prompt",),
        meant={"dequantize": "prefill = dequant", "dequantise": "prefill = dequant"},
    )

    @property
    def tolerance(self) -> Tolerance:
        """The body computes what was there, in another order; the kernels' tables are the engine's matter."""
        return Tolerance(1e-4, "sums are in another order")

    def demands(self) -> Demands:
        """A target with kernels for table lookup."""
        return Demands(table_lookup=True)

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many linears were replaced."""
        from .lookup.rewrite import rewrite

        always = self.when == "always"
        return rewrite(module, scope, self.bits, tables=_ENTRY[self.tables], always=always, prefill=self.prefill)
