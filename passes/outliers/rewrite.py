"""The pass `shadow` over a module: which linears, their profile, which keep a shadow, and the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from ...compiler.diagnostics.diagnostic import fail
from ...compiler.diagnostics.wording import count
from ...compiler.ir.annotations import ACTIVATIONS, SHADOW, WIDE
from ...compiler.ir.linears import Linear, linears
from ...compiler.ir.module import Module
from ...compiler.pipeline.pass_interface import FiguresTable, Scope
from ..quantization import activation_pairs as activations
from .asked import Asked, Groups, input_of
from .given_profile import given
from .profile import LinearOutliers, OutputOutliers, Profile
from .split import Split, split


def shadow(module: Module, asked: Asked, scope: Scope) -> int:
    """Profile the selected linears, split or clip them, and measure the ranges of what the graph has become."""
    before = activations.take_out(module)
    groups = _groups(module, scope)
    if groups:
        _demand_scales(groups, asked, scope)
        profile = _profile(module, groups, asked, scope)
        _rewrite(module.main.graph, groups, {row.name: row for row in profile.linears}, asked.rare)
        if not scope.dry:
            scope.profile = profile.text()
            _tell(profile, asked, scope)
    if not activations.wanted(module):
        return 0
    changes = activations.apply(module, before, scope)
    return sum(len(group) for group in groups) + changes


def _groups(module: Module, scope: Scope) -> Groups:
    """The selected linears with inputs in 8 bits, those of one input together; the others are skipped."""
    found: dict[ir.Value, list[Linear]] = {}
    narrow = 0
    for linear in linears(module):
        node = linear.node
        if SHADOW.get(node) == "cpu" or not scope.selects(linear.name):
            continue
        read = node.inputs[0]
        if WIDE.get(node) is not None:  # of a line in 8 bits: which of them it is is known behind the calibration only
            narrow += 1
            scope.skip(node, "`wide` gave its activations 16 bits, which need no shadow")
            continue
        if linear.kind != "matmul" or ACTIVATIONS.get(node) != "uint8" or read is None:
            scope.skip(node, "its activations are not in 8 bits, the only ones that outliers break")
            continue
        narrow += 1
        producer = read.producer()
        if producer is not None and SHADOW.get(producer) == "clip":
            scope.skip(node, "it is clipped already")
            continue
        found.setdefault(read, []).append(linear)
    if not narrow:
        fail(
            "E0431",
            f"`shadow` corrects outliers of 8-bit activations, and it finds no linear of `{module.name}` that has them",
            scope.origin,
            help="write `activations = uint8` on the `quantize` line in front of it; 16 bits need no shadow",
        )
    return list(found.values())


def _demand_scales(groups: Groups, asked: Asked, scope: Scope) -> None:
    """E0438 where rows are to be read of weights that have more than a scale for each output."""
    for linear in (linear for group in groups for linear in group) if asked.rare else ():
        quant = linear.quant
        if quant is None or quant.block is not None or quant.minimum is not None:
            kind = "floats" if quant is None else f"{quant.format}"
            fail(
                "E0438",
                f"`rare = read` reads rows of integers with a scale for each output, and `{linear.name}` has {kind}",
                scope.origin,
                help="write `block = channel` on its `quantize` line, or `rare = clip`",
            )


def _stand_in(groups: Groups, asked: Asked) -> Profile:
    """Every linear split, at its first channels: the ops and types of a compile, and nothing is measured."""
    rows = []
    for linear, name in ((linear, input_of(group)) for group in groups for linear in group):
        n, k = linear.shape
        hot = tuple(range(max(1, asked.most(k))))
        if asked.mode == "output":
            hot = ()
        output = None
        if asked.mode != "input":
            ends = tuple(range(max(1, asked.most(n))))
            output = OutputOutliers(-1.0, 1.0, ends, 1.0, 1, 0.0, -1.0, 1.0, 0.0)
        seen = -1.0, 1.0
        rows.append(LinearOutliers(linear.name, name, n, k, seen, *seen, hot, 1.0, 1, 0.0, 0.0, *seen, 0.0, output))
    return Profile("", asked.coverage, asked.max_channels, asked.mode, asked.rare, None, tuple(rows))


def _with_kept(rows: Sequence[LinearOutliers], asked: Asked) -> tuple[LinearOutliers, ...]:
    """The rows with the shadows that are kept: those of the largest loss, of as many linears and inputs as are asked.

    The loss of an input counts by the linear, or as it is where the inputs are bounded.
    """
    number, most = asked.kept(len(rows)), len(rows) if asked.inputs is None else asked.inputs
    by_input: dict[str, list[LinearOutliers]] = {}
    for row in rows:
        by_input.setdefault(row.input, []).append(row)
    having = [group for group in by_input.values() if any(row.shadowed for row in group)]
    kept: set[str] = set()
    inputs = 0
    for group in sorted(having, key=lambda one: -(one[0].loss or 0.0) / (len(one) if asked.inputs is None else 1)):
        if len(kept) + len(group) <= number and inputs < most:
            kept |= {row.name for row in group}
            inputs += 1
    return tuple(replace(row, kept=row.name in kept) for row in rows)


def _profile(module: Module, groups: Groups, asked: Asked, scope: Scope) -> Profile:
    if asked.profile:
        made = given(groups, asked, scope)
    elif scope.dry:
        made = _stand_in(groups, asked)
        return replace(made, linears=_with_kept(made.linears, replace(asked, keep_layers=1.0, inputs=None)))
    else:
        from .profiling import measured

        made = measured(module, groups, asked, scope)
    return replace(made, linears=_with_kept(made.linears, asked))


def _rewrite(graph: ir.Graph, groups: Groups, rows: Mapping[str, LinearOutliers], rare: int) -> None:
    for group in groups:
        row = rows[group[0].name]
        split(graph, group, _split_of(row, rare), row.input, _outputs(group, rows))
    graph.sort()


def _outputs(group: Sequence[Linear], rows: Mapping[str, LinearOutliers]) -> dict[str, Split]:
    """The outputs that have channels to correct; all others keep the ranges that `quantize` gives them."""
    found = {linear.name: rows[linear.name].output for linear in group if rows[linear.name].kept}
    return {name: Split(one.low, one.high, one.hot) for name, one in found.items() if one is not None and one.hot}


def _split_of(row: LinearOutliers, rare: int) -> Split:
    """The range with its corrected channels where the shadow is kept and has some, else that of clip search alone."""
    if row.kept and row.hot:
        return Split(row.low, row.high, row.hot, min(rare, row.inputs - len(row.hot)))
    return Split(row.alone_low, row.alone_high)


def _tell(profile: Profile, asked: Asked, scope: Scope) -> None:
    """Notes and the table of the report."""
    rows = profile.linears
    kept = [row for row in rows if row.kept]
    held, whole = sum(row.rows for row in kept), sum(row.inputs * row.outputs for row in rows)
    size = 4 * held / 2**20
    scope.note(
        f"{len(kept)} of {count(len(rows), 'linear')} with a shadow: {held / whole:.1%} of the weights, {size:.2f} MiB "
        "in float32, stay with the CPU"
    )
    clipped = max((row for row in kept if row.hot), key=lambda row: row.beyond, default=None)
    if clipped is not None:
        scope.note(
            f"of the inputs of linears with a shadow at most {clipped.beyond:.2%} of the values are clipped outside of "
            f"the corrected channels, behind `{clipped.input}`"
        )
    mapped = sum(row.inputs * row.outputs for row in kept if row.hot) if asked.rare else 0
    if mapped:
        scope.note(
            f"in each call up to {asked.rare} rare channels of an input are read from {mapped / 2**20:.2f} MiB of "
            "integers, which are stored once more by inputs and mapped"
        )
    pruned = [row for row in rows if row.shadowed and not row.kept and row.loss is not None]
    if pruned:
        dearest = max(pruned, key=lambda row: row.loss or 0.0)
        scope.note(
            f"pruned: the shadows of {count(len(pruned), 'linear')}, the dearest behind `{dearest.input}`: "
            f"{dearest.loss:.2g} nats a token of the calibration text"
        )
    left = [row for row in rows if asked.mode != "output" and row.needed > len(row.hot) and not row.hot]
    wide = [row for row in left if row.coverage < asked.coverage]
    if wide:
        worst = min(wide, key=lambda row: row.coverage)
        scope.note(
            f"clipped only: {count(len(wide), 'linear')} whose outliers lie in too many channels, `{worst.name}` needs "
            f"{worst.needed} of {worst.inputs} for {asked.coverage:.0%}, {asked.max_channels:.0%} reach "
            f"{worst.coverage:.0%}"
        )
    little = [row for row in left if row.coverage >= asked.coverage]
    if little:
        left_over = {row.name: row.error / row.alone_error if row.alone_error else 1.0 for row in little}
        most = max(left_over, key=lambda name: left_over[name])
        scope.note(
            f"clipped only: {count(len(little), 'linear')} that would gain too little by a shadow, that of `{most}` "
            f"would leave {left_over[most]:.0%} of the error"
        )
    scope.table(FiguresTable("Outliers of 8-bit inputs", HEAD, tuple(map(cells, rows))))


HEAD = (
    "linear",
    "seen",
    "range",
    "clip search alone",
    "hot",
    "coverage",
    "error",
    "error alone",
    "hot outputs",
    "loss",
    "shadow",
)


def cells(row: LinearOutliers) -> tuple[str, ...]:
    """A row of the profile as people read it."""
    return (
        row.name,
        f"{row.seen[0]:.3g} … {row.seen[1]:.3g}",
        f"{row.low:.3g} … {row.high:.3g}",
        f"{row.alone_low:.3g} … {row.alone_high:.3g}",
        f"{len(row.hot)} of {row.inputs}",
        f"{row.coverage:.1%}",
        f"{row.error:.2e}",
        f"{row.alone_error:.2e}",
        "" if row.output is None else f"{len(row.output.hot)} of {row.outputs}",
        "" if row.loss is None else f"{row.loss:.2e}",
        "kept" if row.kept else "pruned" if row.shadowed else "none",
    )
