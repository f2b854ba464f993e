"""What one line of a pipeline asks of whoever compiles and runs the model: a pass answers, the checker compares.

Nothing here is an option of a particular pass. A target, the plan's checker and the dry run read these fields and
never the parameters of a pass, so a third party's pass may call its parameters what it likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..diagnostics.diagnostic import Diagnostic, Label, Span

if TYPE_CHECKING:
    from ..ir.weight_format import WeightFormat


@dataclass(frozen=True)
class Demands:
    """Everything a line asks for; the defaults ask for nothing."""

    weights: tuple[WeightFormat, ...] = ()  # formats that weights may get: several where the pass chooses itself
    activations: str | None = None  # integer type of activations (`uint16`); None: they stay floats
    cache: str | None = None  # integer type of the K/V cache
    static: bool = False  # every shape becomes a number
    buckets: tuple[tuple[int, int], ...] = ()  # (new tokens per call, positions in all) of each static graph
    places: frozenset[str] = frozenset()  # devices it pins ops to
    calibration: str | None = None  # the setting that reads the plan's `calibration` text
    without_calibration: str | None = None  # what to write where there is no such text: "use …"
    better: str | None = None  # of a line that costs quality for no need: what to write instead
    sparse: str | None = None  # the pattern that weights have behind it: `2:4`, `pairs`
    prunes: bool = False  # it sets weights to zero that were not
    torch: str | None = None  # the setting that computes with torch
    stored: bool = False  # formats are those of the checkpoint, which its headers tell
    decoder: str | None = None  # the setting that only a decoder has a meaning for
    npu: str | None = None  # the setting that divides work between an NPU and the CPU beside it
    table_lookup: bool = False  # it writes ops that multiply by table lookup
    chooses_channels: bool = False  # it cuts values to their largest channels, token by token
    order: str | None = None  # in which order weights lie in the bundle's file
    hides: bool = False  # the CPU's work beside the NPU has to take no longer than the NPU's

    def without_torch(self, at: Span | None) -> Diagnostic | None:
        """E0461 if the line computes with torch and torch is not installed (it is looked for, not imported)."""
        if self.torch is None or find_spec("torch") is not None:
            return None
        message = f"`{self.torch}` computes with torch, which is not installed"
        other = ", or use `method = rtn`" if self.torch.startswith("method") else ""
        return Diagnostic("E0461", message, Label(at) if at else None, help=f"`pip install 'edgec[solve]'`{other}")

    def without_zeros(self, sparse: Mapping[str, str], at: Span | None) -> Diagnostic | None:
        """E0463 if the line gives integers without a zero to a weight of `sparse`, name -> pattern."""
        if not sparse or not any(format_.bits == 1 for format_ in self.weights):
            return None
        name, pattern = next(iter(sparse.items()))
        message = f"`{name}` has zeros in the pattern {pattern}, which one bit, -1 or 1, cannot hold"
        help = "use `weights = ternary`, or leave out `sparsify`"
        return Diagnostic("E0463", message, Label(at) if at else None, help=help)

    def beyond_context(self, model: str, context: int, at: Span | None) -> Diagnostic | None:
        """E0408 if a bucket holds more positions than the model's `context` (0: not known)."""
        longest = max((positions for _, positions in self.buckets), default=0)
        if not context or longest <= context:
            return None
        message = f"a bucket of {longest} positions is longer than the context of `{model}`, {context}"
        help = f"raise `context` of the model to {longest}"
        return Diagnostic("E0408", message, Label(at) if at else None, help=help)
