"""One static graph per bucket: `tokens` new positions on top of a cache of `context - tokens`.

    main: ids [B,S], mask [.,1,S,T], past [B,G,P,D]   ->   t{S}_c{C}: ids [1,S], mask [1,1,S,C], past [1,G,C-S,D]

An engine for an NPU wants every shape as a number. All buckets refer to the weights of the one graph they were made
from, so that they can share them in the file that is emitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..compiler.diagnostics.diagnostic import PlanError, fail
from ..compiler.ir.levels import Level
from ..compiler.pipeline.demands import Demands
from ..compiler.pipeline.pass_interface import Pass, Scope
from ..compiler.plan.parameters import param

if TYPE_CHECKING:
    from ..compiler.ir.module import BucketShape, Module


@dataclass(frozen=True)
class Bucket(Pass):
    """Make one graph with static shapes per number of tokens and context length."""

    name: ClassVar[str] = "bucket"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC, Level.COMPRESSED, Level.PLACED, Level.STATIC)
    leaves: ClassVar[Level | None] = Level.STATIC
    selects: ClassVar[bool] = False
    keeps_shapes: ClassVar[bool] = True

    tokens: tuple[int, ...] = param(doc="new tokens per call, one graph for each number", minimum=1)
    context: tuple[int, ...] = param(doc="positions a graph attends to, the new tokens included", minimum=2)

    def validate(self) -> list[str | tuple[str, ...]]:
        """Both lists have to rise, and a bucket of C positions takes fewer than C tokens."""
        problems: list[str | tuple[str, ...]] = []
        for field in ("tokens", "context"):
            values = getattr(self, field)
            if not values:
                problems.append((field, f"`{field}` is empty: a bucket needs at least one"))
            if list(values) != sorted(set(values)):
                fixed = ", ".join(map(str, sorted(set(values))))
                problems.append((field, f"`{field}` has to be in rising order without repetitions: [{fixed}]"))
        if self.tokens and self.context and min(self.tokens) >= max(self.context):
            problems.append(
                ("context", f"no context is longer than {min(self.tokens)} tokens: a bucket of C positions takes fewer")
            )
        return problems

    def demands(self) -> Demands:
        """Static graphs of these shapes; a bucket whose tokens leave no room for a cache is not made."""
        pairs = tuple((tokens, context) for context in self.context for tokens in self.tokens)
        return Demands(static=True, buckets=pairs, decoder="bucket")

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many buckets were made."""
        from ..compiler.ir.module import MAIN

        shapes = self._shapes(module, scope)
        if module.level == Level.STATIC:
            self._same(module, shapes, scope)
            return 0
        from .bucketing.shapes import specialise

        main = module.graphs[MAIN]
        module.graphs = {shape.name: specialise(main, shape, scope) for shape in shapes}
        return len(shapes)

    def _shapes(self, module: Module, scope: Scope) -> list[BucketShape]:
        from ..compiler.ir.module import BucketShape

        if module.arch is None:
            fail(
                "E0407",
                f"`{module.name}` is no decoder that edgec built: it has no tokens and no context",
                scope.origin,
                help="drop the line, or give the graph static shapes where it is exported",
            )
        if problem := self.demands().beyond_context(module.name, module.context, scope.origin):
            raise PlanError(problem)
        pairs = [BucketShape(t, c) for c in self.context for t in self.tokens]
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
