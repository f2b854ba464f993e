"""One static graph per bucket: `tokens` new positions on top of a cache of `context - tokens`.

    main: ids [B,S], mask [.,1,S,T], past [B,G,P,D]   ->   t{S}_c{C}: ids [1,S], mask [1,1,S,C], past [1,G,C-S,D]

    main: image [N,3,H,W]                             ->   s0: image [1,3,224,224],   s1: image [1,3,320,320]

An engine for an NPU wants every shape as a number. All buckets refer to the weights of the one graph they were made
from, so that they can share them in the file that is emitted.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from ..compiler.diagnostics.diagnostic import PlanError, fail
from ..compiler.diagnostics.wording import join_or
from ..compiler.ir.levels import Level
from ..compiler.pipeline.demands import Demands
from ..compiler.pipeline.pass_interface import Circumstances, FiguresTable, Pass, Scope
from ..compiler.plan.parameters import InputShapes, param

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..compiler.estimate.choose_buckets import Choice, Chosen
    from ..compiler.estimate.histogram import Histogram
    from ..compiler.ir.module import BucketShape, Module

AUTO = "auto"
_WASTE = 0.2
_EXAMPLE = {"tokens": "1, 64", "context": "512"}
_HEAD = ("buckets", "padding", "bytes read", "estimated time", "binary, of its largest graph's")


@dataclass(frozen=True)
class Bucket(Pass):
    """Make one graph with static shapes per number of tokens and context length."""

    name: ClassVar[str] = "bucket"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC, Level.COMPRESSED, Level.PLACED, Level.STATIC)
    leaves: ClassVar[Level | None] = Level.STATIC
    selects: ClassVar[bool] = False
    keeps_shapes: ClassVar[bool] = True

    tokens: tuple[int | str, ...] = param(
        (),
        doc="new tokens per call, one graph for each number; auto: chosen from how long prompts are",
        choices=(AUTO,),
        minimum=1,
    )
    context: tuple[int | str, ...] = param(
        (),
        doc="positions a graph attends to, the new tokens included; auto: chosen from how long prompts are",
        choices=(AUTO,),
        minimum=2,
    )
    shapes: tuple[InputShapes, ...] = param(
        (),
        doc="of a plain ONNX graph: the shapes of its inputs in each bucket",
        also_called=("input_shapes", "sizes"),
    )
    max_waste: float = param(
        _WASTE, doc="auto: the share of computed slots that may be padding", minimum=0, maximum=1, unit="%"
    )
    histogram: str = param(
        "", doc="auto: a file with a line `tokens count` for each length of prompt; without it docs/estimate.md's"
    )
    chosen: Chosen | None = field(default=None, kw_only=True, compare=False, repr=False)  # what `auto` came to

    def validate(self) -> list[str | tuple[str, ...]]:
        """Both lists have to rise, and a bucket of C positions takes fewer than C tokens."""
        problems: list[str | tuple[str, ...]] = []
        if self.shapes:
            if self.tokens or self.context:
                why = "`shapes` are for a plain graph, `tokens` and `context` for a decoder"
                problems.append(("shapes", why, "leave out one or the other"))
            if len(set(self.shapes)) < len(self.shapes):
                problems.append(("shapes", "two buckets have the same shapes", "leave one of them out"))
            return problems
        for key in ("tokens", "context"):
            values = getattr(self, key)
            if not values:
                help = f"write `{key} = [{_EXAMPLE[key]}]`, or `shapes = [{{ x: [1, 3, 224, 224] }}]` for a plain graph"
                problems.append((key, f"`{key}` is empty: a bucket needs at least one", help))
            if AUTO in values:
                if len(values) > 1:
                    problems.append((key, f"`{key}` is `auto` or a list of numbers, not both"))
            elif list(values) != sorted(set(values)):
                fixed = ", ".join(map(str, sorted(set(values))))
                problems.append((key, f"`{key}` has to be in rising order without repetitions: [{fixed}]"))
        if not self.undecided:
            for key in ("max_waste", "histogram"):
                if getattr(self, key) not in (_WASTE, ""):
                    problems.append((key, f"`{key}` has no effect without `tokens = auto` or `context = auto`"))
            if self.context and (alone := _without_context(_numbers(self.tokens), max(_numbers(self.context)))):
                message = f"no context is longer than {alone} tokens: a bucket of C positions takes fewer"
                problems.append(("context", message))
        return problems

    @property
    def undecided(self) -> bool:
        """Whether tokens or contexts are left to be chosen."""
        return AUTO in self.tokens or AUTO in self.context

    def decided(self, by: Circumstances) -> Bucket:
        """The buckets that the prompts of the histogram take least time with."""
        from ..compiler.estimate.choose_buckets import choose_buckets

        tokens, context = _numbers(self.tokens), _numbers(self.context)
        verify = by.verify
        if tokens and by.roomy and verify is not None:
            verify = min((own for own in tokens if own >= verify), default=verify)
        if tokens and verify is not None and verify not in tokens:
            wanted = ", ".join(map(str, sorted({*tokens, verify})))
            fail("E0210", f"no bucket of {verify} tokens for the rounds of speculation", by.origin,
                 help=f"it has to be k + 1: `tokens = [{wanted}]`, or `tokens = auto`")  # fmt: skip
        longest = max(context, default=by.context)
        if alone := _without_context(tokens, longest):
            fail("E0206", f"a context of {longest} positions has no room for {alone} tokens and a cache", by.origin)
        chosen = choose_buckets(
            by.context,
            self._histogram(by, longest),
            by.seconds,
            by.read,
            self.max_waste,
            verify,
            tokens,
            context,
            by.tables,
        )
        return replace(self, tokens=chosen.last.tokens, context=chosen.last.context, chosen=chosen)

    def _histogram(self, by: Circumstances, longest: int) -> Histogram:
        from ..compiler.estimate.histogram import DEFAULT, read_histogram

        if not self.histogram:
            return DEFAULT
        try:
            found = read_histogram(by.folder / self.histogram, self.histogram)
            shortest = next(tokens for tokens, often in found.rows if often)
            if shortest >= longest:
                raise ValueError(f"its prompts of {shortest:,} tokens and more leave no room in {longest:,}")
            return found
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            help = "a line is `tokens count`, such as `120 35`; docs/estimate.md has the default, for no file"
            fail("E0417", f"`{self.histogram}` is no histogram of prompt lengths: {why}", by.origin, help=help)

    def demands(self) -> Demands:
        """Static graphs of these shapes; a bucket whose tokens leave no room for a cache is not made."""
        if self.undecided:
            return Demands(static=True, decoder="bucket")
        pairs = tuple((tokens, context) for context in _numbers(self.context) for tokens in _numbers(self.tokens))
        return Demands(static=True, buckets=pairs, decoder="bucket")

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many buckets were made."""
        from ..compiler.ir.module import MAIN

        if self.shapes:
            return self._plain(module, scope)
        shapes = self._shapes(module, scope)
        if module.level == Level.STATIC:
            self._same(module, shapes, scope)
            return 0
        from .bucketing.shapes import specialise

        if self.chosen is not None:
            _tell(self.chosen, self.max_waste, scope)
        main = module.graphs[MAIN]
        module.graphs = {shape.name: specialise(main, shape, scope) for shape in shapes}
        return len(shapes)

    def _plain(self, module: Module, scope: Scope) -> int:
        """A graph for each of `shapes`, named s0, s1, …"""
        from ..compiler.ir.module import MAIN
        from .bucketing.graph_shapes import fits, specialise_graph

        if module.arch is not None:
            fail(
                "E0407",
                f"`{module.name}` is a decoder: its inputs have their sizes from tokens and context",
                scope.origin,
                help="write `bucket (tokens = [1, 64], context = [512])`",
            )
        if module.level == Level.STATIC:
            if not fits(module, self.shapes):
                have = ", ".join(f"`{name}`" for name in module.graphs)
                fail(
                    "E0409", f"`{module.name}` is in buckets already: {have}", scope.origin,
                    help="list all `shapes` in one line",
                )  # fmt: skip
            return 0
        main = module.graphs[MAIN]
        module.graphs = {f"s{at}": specialise_graph(main, shapes, scope) for at, shapes in enumerate(self.shapes)}
        return len(self.shapes)

    def _shapes(self, module: Module, scope: Scope) -> list[BucketShape]:
        from ..compiler.ir.module import BucketShape

        if module.arch is None:
            fail(
                "E0407",
                f"`{module.name}` is no decoder that edgec built: it has no tokens and no context",
                scope.origin,
                help="write `bucket (shapes = [{ image: [1, 3, 224, 224] }])`, or drop the line",
            )
        if problem := self.demands().beyond_context(module.name, module.context, scope.origin):
            raise PlanError(problem)
        pairs = [BucketShape(t, c) for c in _numbers(self.context) for t in _numbers(self.tokens)]
        for shape in pairs:
            if shape.tokens >= shape.context:
                scope.skip(shape.name, f"{shape.tokens} tokens leave no room for a cache in {shape.context} positions")
        return [shape for shape in pairs if shape.tokens < shape.context]

    @staticmethod
    def _same(module: Module, shapes: list[BucketShape], scope: Scope) -> None:
        if {shape.name for shape in shapes} != set(module.graphs):
            have = ", ".join(f"`{name}`" for name in module.graphs)
            fail(
                "E0409",
                f"`{module.name}` is in buckets already: {have}",
                scope.origin,
                help="list all `tokens` and `context` in one line",
            )


def _numbers(values: tuple[int | str, ...]) -> tuple[int, ...]:
    """The numbers among the values: all of them, or none of `auto`."""
    return tuple(value for value in values if not isinstance(value, str))


def _tell(chosen: Chosen, max_waste: float, scope: Scope) -> None:
    """What was chosen, what it saves, and every set that was looked at on the way."""
    last, plain = chosen.last, chosen.plain
    saved = 1 - last.cost.seconds / plain.cost.seconds if plain.cost.seconds else 0.0
    against = ", ".join(map(str, plain.tokens))
    scope.note(
        f"buckets of {', '.join(map(str, last.tokens))} tokens within {', '.join(map(str, last.context))} positions: "
        f"{100 * last.cost.waste:.0f} % padding, {100 * saved:.0f} % less estimated prompt time than {{{against}}}"
    )
    if last.cost.waste > max_waste:
        scope.note(f"no choice keeps padding within {100 * max_waste:g} %")
    rows = [_row(one) for one in (plain, *chosen.steps)]
    scope.table(FiguresTable("Buckets looked at, the last one made", _HEAD, tuple(rows)))


def _row(choice: Choice) -> tuple[str, ...]:
    cost = choice.cost
    named = f"{{{', '.join(map(str, choice.tokens))}}} x {{{', '.join(map(str, choice.context))}}}"
    return (
        named, f"{100 * cost.waste:.1f} %", f"{cost.read / 1e9:.2f} GB", f"{cost.seconds:.3g} s", f"{choice.size:.2f}"
    )  # fmt: skip


def _without_context(tokens: Sequence[int], longest: int) -> str:
    """The numbers of tokens that not even the longest context has room for, in words; empty where there are none."""
    return join_or([str(count) for count in tokens if count >= longest])
