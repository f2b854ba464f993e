"""What a `require` line can name: a measure of the bundle (`bundle.size`) or of one model (`target.perplexity`).

A plug-in brings one through the entry points `edgec.measures`. The plan's checker reads the class only; `value` is
called when the bundle's files are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class Finished:
    """What a measure may look at: the finished bundle, before its report and seal are written.

    `perplexity` and `baseline` hold, by model, what the plan's `evaluation` measured: compressed and float.
    """

    directory: Path
    manifest: Mapping[str, Any]
    size: int  # bytes of all files
    perplexity: Mapping[str, float]
    baseline: Mapping[str, float]


class Measure:
    """Base of all measures: `<of>.<name>` in a `require` line. The docstring's first line is its help."""

    name: ClassVar[str]
    of: ClassVar[Literal["bundle", "model"]]
    unit: ClassVar[Literal["B"] | None] = None  # B: a bound is a size like `3.4 GiB`; None: a number above 0
    has_baseline: ClassVar[bool] = False  # whether a bound may be a product like `1.03 * baseline`
    needs_evaluation: ClassVar[bool] = False  # whether the plan's `evaluation` text is what it is measured on
    decoders_only: ClassVar[bool] = False  # whether only a language model has it
    also_called: ClassVar[tuple[str, ...]] = ()  # what people type who mean it

    def value(self, finished: Finished, model: str | None) -> tuple[float, float]:
        """The measured value and the baseline's (1.0 without one); `model` is None for a measure of the bundle."""
        raise NotImplementedError(f"measure `{self.name}` does not define `value`")

    def describe(self, value: float, baseline: float) -> str:
        """A measured value for people."""
        return f"{value:.4f}, {value / baseline:.4f} * baseline" if self.has_baseline else f"{value:g}"


class BundleSize(Measure):
    """Bytes of all files of the bundle but for the report, the manifest and its seal."""

    name: ClassVar[str] = "size"
    of: ClassVar[Literal["bundle", "model"]] = "bundle"
    unit: ClassVar[Literal["B"] | None] = "B"
    also_called: ClassVar[tuple[str, ...]] = ("bytes", "weight", "storage", "disk", "mb")

    def value(self, finished: Finished, model: str | None) -> tuple[float, float]:
        """Bytes; a size has no baseline."""
        return float(finished.size), 1.0

    def describe(self, value: float, baseline: float) -> str:
        """Megabytes (10^6 bytes), and the bytes for who is just beyond a bound."""
        return f"{value / 1e6:.2f} MB, {value:.0f} bytes"


class Perplexity(Measure):
    """Perplexity of the compressed module on the `evaluation` text, in ONNX Runtime; baseline: the float model's."""

    name: ClassVar[str] = "perplexity"
    of: ClassVar[Literal["bundle", "model"]] = "model"
    has_baseline: ClassVar[bool] = True
    needs_evaluation: ClassVar[bool] = True
    decoders_only: ClassVar[bool] = True
    also_called: ClassVar[tuple[str, ...]] = ("ppl", "loss", "quality", "accuracy", "perplex")

    def value(self, finished: Finished, model: str | None) -> tuple[float, float]:
        """As measured when the model was compiled."""
        if model is None:
            raise ValueError("perplexity is measured of a model")
        return finished.perplexity[model], finished.baseline[model]
