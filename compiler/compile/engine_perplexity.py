"""Perplexity of a model as it ships: on its engine, in the mode that its files ask for, within a stated time.

    value = engine over n windows,                                  where the time is enough for all N of them
    value = module over N * (engine over n) / (module over n),      where it is enough for fewer
    value = module over N,                                          where not for one

What judged is said beside every figure: an int8 mode of an engine can cost more than the quantisation did. How many
windows the time is enough for follows from the model's size and a nominal speed of the engine, not from a clock: two
compiles measure the same, on a busy machine too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..runtime.engines import open_model
from ..runtime.perplexity import WINDOW, loss

if TYPE_CHECKING:
    from ..bundle.manifest import Manifest


@dataclass(frozen=True)
class Judged:
    """Who judged a model's perplexity: `by` the engine or the module, over `windows` of `of` windows.

    `cost`: perplexity of the engine over that of the module on the same windows; None where the engine was not run.
    """

    by: str
    windows: int
    of: int
    cost: float | None = None
    why: str = ""

    def entry(self) -> dict[str, Any]:
        """Its form in the manifest."""
        return {"by": self.by, "windows": self.windows, "of": self.of, "cost": self.cost, "why": self.why}

    def __str__(self) -> str:
        if self.cost is None:
            return f"the module, not the engine: {self.why}"
        share = "" if self.windows == self.of else f", {self.windows} of {self.of} windows"
        return f"on {self.by}{share}"


def judge(
    manifest: Manifest,
    name: str,
    mode: str,
    ids: Sequence[int],
    windows: int,
    most: int,
    module: Callable[[int], float],
) -> tuple[float, Judged]:
    """The perplexity of model `name` as it ships, and who judged; `module(n)` is the module's over n windows.

    `mode`: what runs it, in words; `most`: how many windows its engine may read.
    """
    whole = module(windows)
    count = min(most, windows)
    if manifest.model(name)["arch"]["context"] < WINDOW:
        return whole, Judged("the module", 0, windows, why=f"its context is shorter than a window of {WINDOW} tokens")
    if count < 1:
        return whole, Judged("the module", 0, windows, why=f"a window takes {mode} longer than `engine_time`")
    losses = _losses(manifest, name, ids, count)
    if losses is None:
        return whole, Judged("the module", 0, windows, why=f"its buckets do not hold a window of {WINDOW} tokens")
    engine = math.exp(sum(losses) / len(losses))
    same = whole if count == windows else module(count)
    return whole * engine / same, Judged(mode, count, windows, engine / same)


def _losses(manifest: Manifest, name: str, ids: Sequence[int], windows: int) -> list[float] | None:
    """The loss of each window; None if the buckets hold no window."""
    model = open_model(manifest, name)
    try:
        fits = getattr(model, "fits", None)
        if fits is not None and not fits(WINDOW):
            return None
        return [loss(model, ids[at * WINDOW : (at + 1) * WINDOW]) for at in range(windows)]
    finally:
        model.close()
