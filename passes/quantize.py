"""Replace float weights by small integers with scales, block by block along the inputs.

    y[.., N] = x[.., K] @ W[N, K]^T   ->   y = x @ (scale[N, K/B] * (q[N, K] - zero_point[N, K/B]))^T

One scale (and for `symmetric = false` one zero point) per block of B inputs of one output, or one per output with
`block = channel`. Linears and embeddings take blocks; convolutions are quantised per channel only. Weights are made
row by row when they are written (`quantization/round_to_nearest.py`), always from the float original, so that a
later line replaces an earlier one without adding its error. Two ops that share a weight keep sharing it while both get
the same format.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..compiler.diagnostics.diagnostic import Diagnostic, PlanError
from ..compiler.ir.levels import Level
from ..compiler.ir.weight_format import TWO_LEVEL, WeightFormat
from ..compiler.pipeline.demands import Demands
from ..compiler.pipeline.pass_interface import Pass, Scope, Tolerance
from ..compiler.plan.parameters import param
from .quantization.blocks import BLOCKS, indivisible, unmet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..compiler.diagnostics.diagnostic import Span
    from ..compiler.ir.module import Module
    from ..compiler.ir.weights import Weight
    from .quantization.round_to_nearest import QuantizedTensors

_STEP = {
    "int1": 1.0,
    "ternary": 1.0,
    "int2": 1 / 2,
    "int3": 1 / 6,
    "int4": 1 / 14,
    "int8": 1 / 254,
}  # half a step over the largest weight of the block
_SPREAD = {16: 1.5, 32: 1.8, 64: 2.1, 128: 2.4}  # how far weights of one block typically lie below its largest
_CHANNEL_SPREAD = 3.0
_DAMPING = 0.01
_CALIBRATED = ("awq", "gptq", "reconstruct")
_NARROW = ("int4", "int3", "int2", "ternary", "int1")
_FEW = {"int1": "-1 and 1", "ternary": "-1, 0 and 1"}  # integers that lie around zero whatever the block holds
_BETTER = "`method = gptq` with a `calibration` text loses a fraction of it (docs/figures.md)"
_INTEGERS = ("int4", "int8", "int3", "int2", "ternary", "int1")
_MEANT = {  # formats as other tools spell them
    "w4a16": "weights = int4, activations = uint16` as qnn, elsewhere `weights = int4",
    "w4a8": "weights = int4, activations = uint8` as qnn, elsewhere `weights = int4",
    "w8a16": "weights = int8, activations = uint16` as qnn, elsewhere `weights = int8",
    "w8a8": "weights = int8, activations = uint8` as qnn, elsewhere `weights = int8",
    "w4": "weights = int4",
    "w8": "weights = int8",
    **{f"{name}4": "weights = int4" for name in ("i", "s", "int_", "q")},
    **{f"{name}8": "weights = int8" for name in ("i", "s", "int_", "q")},
    "4bit": "weights = int4",
    "8bit": "weights = int8",
    "uint4": "weights = int4, symmetric = false",
    "uint8": "weights = int8, symmetric = false",
    "q4_0": "weights = int4, block = 32",
    "q4_1": "weights = int4, block = 32, symmetric = false",
    "q8_0": "weights = int8, block = 32",
    **{
        f"q{bits}_k{size}": f"weights = int{bits}, block = 32, method = gptq"
        for bits in (2, 3, 4)
        for size in ("", "_s", "_m", "_l")
    },
    **dict.fromkeys(("binary", "w1", "i1", "1bit", "uint1", "bipolar"), "weights = int1"),
    **dict.fromkeys(("trinary", "bitnet", "b158", "i2_s", "tq1_0", "tq2_0", "int1_58"), "weights = ternary"),
    **dict.fromkeys(("fp4", "nf4", "mxfp4", "nvfp4"), "weights = int4"),
    **dict.fromkeys(("fp8", "mxfp8"), "weights = int8"),
    **dict.fromkeys(
        ("fp16", "float16", "bf16", "fp32", "float32", "none"),
        "weights that `quantize` leaves out stay floats: name them in its `except`.",
    ),
}
_SIGNED = "`uint8` or `uint16`: integer activations have a zero point, so a signed type would hold the same values."
_ACTIVATIONS = {"fp16": 0.0, "uint16": 0.02, "uint8": 0.3}  # of random inputs, which calibration has not seen


@dataclass(frozen=True)
class Quantize(Pass):
    """Store weights as integers of 1, 2, 3, 4 or 8 bits with a scale per block of inputs or per channel."""

    name: ClassVar[str] = "quantize"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC, Level.COMPRESSED)
    leaves: ClassVar[Level | None] = Level.COMPRESSED
    keeps_shapes: ClassVar[bool] = True

    weights: str = param(
        "stored",
        doc="integer type of the weights; ternary: -1, 0 and 1, two bits each; int1: -1 and 1; stored: that of the "
        "checkpoint, with `method = keep`; auto: a width of "
        "`bits` and a block of `blocks` for each weight, chosen by "
        "what it costs the model, within `budget`",
        choices=(*_INTEGERS, "auto", "stored"),
        also_called=("dtype", "precision", "weight", "wbits", "w_bit", "weight_type", "type", "format", "scheme"),
        meant=_MEANT,
    )
    block: int | str = param(
        32,
        doc="number of consecutive inputs that share one scale; channel: one scale for all inputs of an output",
        choices=(*BLOCKS, "channel"),
        also_called=("group_size", "group", "block_size", "granularity", "q_group_size"),
        meant={"-1": "block = channel", "per_channel": "block = channel", "row": "block = channel"},
        goes_with=("weights", (*_INTEGERS, "stored")),
    )
    symmetric: bool = param(
        True,
        doc="true: integers around zero, a scale per block; false: a scale and a zero point per block",
        also_called=("sym",),
        meant=dict.fromkeys(("asymmetric", "asym", "zero_point", "zero_points"), "symmetric = false"),
    )
    method: str = param(
        "rtn",
        doc="how the integers are chosen (docs/solvers.md); awq, gptq and reconstruct need the plan's `calibration`; "
        "keep: the integers that the checkpoint stores",
        choices=("rtn", "mse", "hqq", "awq", "gptq", "reconstruct", "keep"),
        also_called=("algorithm", "algo", "quantizer", "solver", "quant_method"),
        meant={
            "autoround": "method = reconstruct",
            "signround": "method = reconstruct",
            "adaround": "method = reconstruct",
            "nearest": "method = rtn",
            "minmax": "method = rtn",
            "smoothquant": "method = awq",
            "none": "method = rtn",
        },
    )
    act_order: bool = param(
        False,
        doc="true: gptq solves the inputs with the largest activations first, wherever they lie, and scales are chosen "
        "before it starts; false: it solves the blocks with the largest first, each with its scale (of one and two "
        "bits in their own order)",
        also_called=("desc_act", "actorder"),
        goes_with=("method", ("gptq", "reconstruct")),
    )
    damping: float = param(
        _DAMPING,
        doc="gptq: added to the Hessian's diagonal, as a fraction of what lies between an input's own and the mean one "
        "(their geometric mean; of one and two bits the mean one); raised tenfold until the matrix is positive "
        "definite",
        minimum=0,
        maximum=1,
        also_called=("damp", "percdamp", "damp_percent", "dampening_frac"),
        goes_with=("method", _CALIBRATED),
    )
    bits: tuple[int, ...] = param(
        (3, 4, 8),
        doc="widths that `weights = auto` chooses from",
        choices=(2, 3, 4, 8),
        meant={str(width): f"weights = int{width}" for width in (2, 3, 4, 8)},
        goes_with=("weights", ("auto",)),
    )
    blocks: tuple[int, ...] = param(
        (16, 32, 128),
        doc="block sizes that `weights = auto` chooses from; it ignores `block`",
        choices=BLOCKS,
        goes_with=("weights", ("auto",)),
    )
    budget: float = param(
        4.5,
        doc="bits per weight that `weights = auto` may spend on average, scales and zero points included",
        unit="bits",
        minimum=2,
        also_called=("target_bits", "avg_bits", "average_bits", "bpw"),
        goes_with=("weights", ("auto",)),
    )
    tune: str = param(
        "none",
        doc="scales: after all integers are chosen, the scales of all decoder blocks are learned together against the "
        "float model's next-token distribution on the calibration text",
        choices=("none", "scales"),
        also_called=("finetune", "fine_tune", "end_to_end", "learn_scales"),
        goes_with=("method", _CALIBRATED),
    )
    time: float = param(
        0.0,
        doc="how long choosing may take: reconstruct learns fewer steps a block, `weights = auto` measures on fewer "
        "windows, `tune` learns fewer steps, each in its share, and the report says how many; 0 s: as long as it "
        "takes. gptq, which all use, is not shortened",
        unit="s",
        minimum=0,
        also_called=("time_limit", "max_time", "timeout", "time_budget"),
    )
    scales: str = param(
        "auto",
        doc="how scales are stored; float: a float16 per block; lpbq: an integer from 1 to 15 per block and one float "
        "per output; auto: lpbq if the activations are integers and the format allows it, else float",
        choices=("auto", "float", "lpbq"),
    )
    activations: str = param(
        "fp16",
        doc="type of the selected linears' inputs and outputs (docs/activations.md); with uint8 the rest of the "
        "decoder is uint16",
        choices=("fp16", "uint16", "uint8"),
        also_called=("activation", "acts", "a_bits", "activation_type", "input_activations"),
        meant={"int8": _SIGNED, "int16": _SIGNED, "float16": "activations = fp16", "a16": "activations = uint16"},
    )
    ranges: str = param(
        "auto",
        doc="how the range of integer activations is chosen from calibration text; auto: minmax for uint16, mse for "
        "uint8. clip and learned are for linears in uint8: the least error of what they make of their inputs, and "
        "ranges trained block by block",
        choices=("auto", "minmax", "percentile", "mse", "clip", "learned"),
        also_called=("observer", "range_method"),
        goes_with=("activations", ("uint16", "uint8")),
    )
    wide: float = param(
        0.0,
        doc="up to which share of the line's weights belongs to linears that have 16-bit activations after all: those "
        "that lose most by 8 bits, measured on calibration text",
        unit="%",
        minimum=0,
        maximum=1,
        also_called=("mixed_activations", "keep_wide", "uint16_share", "exceptions"),
        goes_with=("activations", ("uint8",)),
    )

    @classmethod
    def completed(cls, written: Mapping[str, Any]) -> dict[str, Any]:
        """Mixed widths are chosen by a method that measures them: gptq, unless another is named."""
        return {"method": "gptq", **written} if written.get("weights") == "auto" else dict(written)

    @property
    def tolerance(self) -> Tolerance:
        """A few layers of rounding noise; how much a block's largest weight stands out decides."""
        spread = _CHANNEL_SPREAD if isinstance(self.block, str) else _SPREAD[self.block]
        weights = {"auto": f"int{min(self.bits)}", "stored": "int4"}.get(self.weights, self.weights)
        # calibrated methods are best on their text, not on the random inputs they are checked with
        noise = 3 if self.method in ("rtn", "mse", "hqq") else 6
        bound = noise * _STEP[weights] * spread + _ACTIVATIONS[self.activations]
        return Tolerance(bound, f"{weights} weights, {self.activations} activations")

    def demands(self) -> Demands:
        """Formats as written (all candidates of `auto`); what reads calibration text or computes with torch."""
        integers = None if self.activations == "fp16" else f"activations = {self.activations}"
        solved = None if self.method in ("rtn", "keep") else f"method = {self.method}"
        auto = "weights = auto" if self.weights == "auto" else None
        return Demands(
            weights=self._formats(),
            activations=None if integers is None else self.activations,
            calibration=solved if self.method in _CALIBRATED else integers,
            without_calibration=self._without_calibration(),
            better=_BETTER if self.method == "rtn" and self.weights in _NARROW else None,
            torch=auto or integers or solved,
            stored=self.method == "keep",
            decoder=integers,
        )

    def _without_calibration(self) -> str | None:
        if self.method not in _CALIBRATED and self.activations == "fp16":
            return None
        if self.weights == "auto":
            return "choose the width yourself, e.g. `weights = int4`"
        if self.activations != "fp16":
            return f"leave out `activations = {self.activations}`" + (
                " and use `method = rtn, mse or hqq`" if self.method in _CALIBRATED else ""
            )
        return "use a method that needs none: rtn, mse or hqq"

    @property
    def moves_cache(self) -> bool:
        """awq scales v_proj against o_proj, and with it what the V cache holds; integer activations round it."""
        return self.method == "awq" or self.activations != "fp16"

    @property
    def moves_inside(self) -> bool:
        """awq scales norms and values against what reads them."""
        return self.method == "awq"

    def validate(self) -> list[str | tuple[str, ...]]:
        """Mixed precision is measured on calibration text, so its integers are chosen with it too."""
        if self.method == "keep":
            return self._changed_by_keep()
        if self.weights == "stored":
            takes = f"it needs `weights`: {', '.join(_INTEGERS)} or auto (only `method = keep` takes those stored)"
            return [("weights", takes, "write e.g. `quantize (weights = int4)`")]
        if self.weights in _FEW and not self.symmetric:
            why = f"`{self.weights}` has no zero point: its integers are {_FEW[self.weights]}"
            return [("symmetric", why, "leave out `symmetric`, or use `weights = int2`")]
        if self.weights == "auto" and self.method not in _CALIBRATED:
            help = "leave out `method`, which is then gptq; or name the width: `weights = int4`"
            return [("method", "`weights = auto` goes with `method = gptq`, `awq` or `reconstruct`", help)]
        if self.time and not self._limited:
            why = "`time` goes with `method = reconstruct`, `weights = auto` or `tune = scales`: only they have steps"
            return [("time", why, "leave out `time`")]
        if self.ranges in ("clip", "learned") and self.activations == "uint16":
            why = f"`ranges = {self.ranges}` is for `activations = uint8`: 16 bits lose nothing by their ranges"
            return [("ranges", why, "leave out `ranges`")]
        if self.scales == "lpbq" and not self._fits_lpbq:
            help = "write `weights = int4, block = 32, scales = lpbq`"
            return [("scales", "`scales = lpbq` goes with symmetric int4 weights in blocks of 16, 32 or 64", help)]
        return []

    def _changed_by_keep(self) -> list[str | tuple[str, ...]]:
        """Settings that would change the checkpoint's integers, or have no meaning for them."""
        plain = Quantize(method="keep")
        fields = ("weights", "block", "symmetric", "act_order", "damping", "scales", "activations", "ranges", "time")
        given = [name for name in fields if getattr(self, name) != getattr(plain, name)]
        why = "does not go with `method = keep`, which ships what is stored"
        return [(name, f"`{name}` {why}", f"leave out `{name}`, or another `method`") for name in given]

    @property
    def _limited(self) -> int:
        """How many stages share `time`: measuring, learning by block, learning end to end."""
        return (self.weights == "auto") + (self.method == "reconstruct") + (self.tune != "none")

    @property
    def _share(self) -> float:
        return self.time / max(1, self._limited)

    @property
    def _fits_lpbq(self) -> bool:
        return self.weights in ("int2", "int3", "int4") and self.symmetric and self.block in (16, 32, 64)

    def check(self, weights: Mapping[str, tuple[int, int]], origin: Span) -> Iterable[Diagnostic]:
        """Blocks have to divide the inputs of every weight that the line selects, and a budget has to hold them all."""
        if self.method == "keep":
            return
        auto = self.weights == "auto"
        for block in self.blocks if auto else (self.block,):
            wrong = {name: k for name, (_, k) in weights.items() if not isinstance(block, str) and k % block}
            if wrong and not isinstance(block, str):
                yield indivisible(block, wrong, origin, several=auto)
        if auto and weights:
            least = sum(min(format_.size(n, k) for format_ in self._formats()) for n, k in weights.values())
            least /= sum(n * k for n, k in weights.values())
            if least > self.budget:
                yield unmet(self.budget, least, origin)

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many uses of a weight got a new format, and how many activations a new range."""
        from .quantization import activation_pairs, graph_pairs

        activation_pairs.refuse_shadows(module, scope)
        if module.arch is None:
            before = graph_pairs.take_out(module)
            changes = self._weights(module, scope)
            graph_pairs.mark(module, self.activations, self.ranges, scope)
            self._widen(module, scope)
            wanted = activation_pairs.wanted(module)
            return changes + (graph_pairs.apply(module, before, scope) if wanted else 0)
        before = activation_pairs.take_out(module)  # ranges are those of the weights that ship
        changes = self._weights(module, scope)
        activation_pairs.mark(module, self.activations, self.ranges, scope)
        self._widen(module, scope)
        return changes + (activation_pairs.apply(module, before, scope) if activation_pairs.wanted(module) else 0)

    def _widen(self, module: Module, scope: Scope) -> None:
        if self.wide and self.activations == "uint8":
            from .quantization.widen import widen

            widen(module, self.wide, scope)

    def _weights(self, module: Module, scope: Scope) -> int:
        from .quantization.rewrite import quantize_graph

        if self.method == "keep":
            from .quantization.keep import keep

            return keep(module, scope)
        graph = module.main.graph
        auto = self.weights == "auto"
        formats = self._chosen(module, scope) if auto else {}
        fixed = None if auto else self._formats()[0]

        def format_of(name: str) -> WeightFormat | None:
            return fixed or formats.get(name)

        if self.method == "rtn" or scope.dry:
            return quantize_graph(graph, module, format_of, scope)
        self._demand_torch(scope)
        from .solve.gptq import Gptq
        from .solve.solve_weights import Settings, WeightToSolve, solve
        from .solve.tune_scales import Tune

        seconds = self._share if self.method == "reconstruct" else 0.0
        settings = Settings(self.method, Gptq(damping=self.damping, act_order=self.act_order), seconds=seconds)

        def solver(weights: Mapping[str, Weight]) -> dict[str, QuantizedTensors]:
            wanted = {name: WeightToSolve(weight, f) for name, weight in weights.items() if (f := format_of(name))}
            return solve(module, wanted, settings, scope, Tune() if self.tune == "scales" else None, self._share)

        return quantize_graph(graph, module, format_of, scope, solver)

    def _demand_torch(self, scope: Scope) -> None:
        if problem := self.demands().without_torch(scope.origin):
            raise PlanError(problem)

    def _formats(self) -> tuple[WeightFormat, ...]:
        """The format of the line; with `weights = auto` all that it chooses from; none where the model decides."""
        if self.weights == "stored":
            return ()
        if self.weights == "auto":
            widths, blocks = sorted(set(self.bits)), sorted(set(self.blocks))
            return tuple(self._format(bits, block) for bits in widths for block in blocks)
        block = None if isinstance(self.block, str) else self.block
        if self.weights == "ternary":
            return (replace(self._format(2, block), ternary=True),)
        return (self._format(int(self.weights.removeprefix("int")), block),)

    def _format(self, bits: int, block: int | None) -> WeightFormat:
        lpbq = self.scales == "lpbq" or (self.scales == "auto" and self.activations != "fp16" and self._fits_lpbq)
        integers = self.activations != "fp16"  # their dequantised weights go through QDQ, whose scales are positive
        return WeightFormat(bits, block, self.symmetric, self.method, TWO_LEVEL if lpbq else "float", integers or lpbq)

    def _chosen(self, module: Module, scope: Scope) -> dict[str, WeightFormat]:
        """Mixed precision: a format for each selected linear."""
        from .quantization.rewrite import measurable

        if scope.dry:  # any of them may be chosen: the narrowest stands for all
            return dict.fromkeys(measurable(module, self._formats()[0], scope), self._formats()[0])
        self._demand_torch(scope)
        from .solve.mixed_precision import choose, sensitivities, tell

        formats = list(self._formats())
        sources = measurable(module, formats[0], scope)
        table = sensitivities(module, sources, formats, scope, self._share)
        shapes = {name: source.dims for name, source in sources.items()}
        chosen = choose(table, shapes, self.budget, scope)
        tell(table, chosen, shapes, scope)
        return chosen
