"""The time that `reconstruct` may take, shared among the blocks that are still to be learned."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ...compiler.calibration.time_left import duration
from ...compiler.pipeline.pass_interface import Scope
from .reconstruct import Reconstruct


class TimeBudget:
    """`seconds` from now on; 0 is no limit. gptq, which comes first in every block, is not cut short."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.start = seconds, time.perf_counter()

    def allowed(self, blocks: int) -> float | None:
        """Seconds for the next of `blocks` blocks, None without a limit."""
        if not self.seconds:
            return None
        return max(0.0, self.seconds - (time.perf_counter() - self.start)) / max(1, blocks)

    def tell(self, steps: Sequence[int], settings: Reconstruct, scope: Scope) -> None:
        """Note how many of its steps the limit has left each block."""
        complete, least, most = settings.stages * settings.steps, min(steps, default=0), max(steps, default=0)
        if not steps or least == complete:
            return
        some = f"{least}" if least == most else f"{least} to {most}"
        none = "" if least else "; where there is no time for any, the integers are gptq's"
        scope.note(f"reconstruct: {some} of {complete} steps a block, to end within {duration(self.seconds)[6:]}{none}")
