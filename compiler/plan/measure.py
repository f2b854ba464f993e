"""What a `require` line can name: of the bundle (`bundle.size`), of one model (`target.perplexity`), on the device.

A measure of the device (`decode.rate`) is estimated, not measured: its name stands alone, with nothing before it.

A plug-in brings one through the entry points `edgec.measures`. The plan's checker reads the class only; `value` is
called when the bundle's files are there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
    """Base of all measures: `<of>.<name>` in a `require` line, the name alone if it is of the device.

    The docstring's first line is its help.
    """

    name: ClassVar[str]
    of: ClassVar[Literal["bundle", "model", "device"]]
    unit: ClassVar[Literal["B", "tok/s"] | None] = (
        None  # a bound is a size like `3.4 GiB`, a rate; None: a number above 0
    )
    has_baseline: ClassVar[bool] = False  # whether a bound may be a product like `1.03 * baseline`
    looks_relative_below: ClassVar[float] = 0.0  # an upper bound below it was meant as a share of the baseline
    needs_evaluation: ClassVar[bool] = False  # whether the plan's `evaluation` text is what it is measured on
    decoders_only: ClassVar[bool] = False  # whether only a language model has it
    also_called: ClassVar[tuple[str, ...]] = ()  # what people type who mean it
    more_is_better: ClassVar[bool] = False  # as a goal of `edgec tune`

    def value(self, finished: Finished, model: str | None) -> tuple[float, float]:
        """The measured value and the baseline's (1.0 without one); `model` is None for a measure of the bundle."""
        raise NotImplementedError(f"measure `{self.name}` does not define `value`")

    def describe(self, value: float, baseline: float) -> str:
        """A measured value for people."""
        return f"{value:.4f}, {value / baseline:.4f} * baseline" if self.has_baseline else f"{value:g}"


def subject_of(subject: str, measures: Collection[str]) -> tuple[str, str | None]:
    """Name of the measure and what it is of, from a `require` line's subject; None: of the device."""
    if subject in measures:
        return subject, None
    owner, _, name = subject.rpartition(".")
    return name, owner


class BundleSize(Measure):
    """Bytes of all files of the bundle but for the report, the manifest and its seal."""

    name: ClassVar[str] = "size"
    of: ClassVar[Literal["bundle", "model", "device"]] = "bundle"
    unit: ClassVar[Literal["B", "tok/s"] | None] = "B"
    also_called: ClassVar[tuple[str, ...]] = ("bytes", "weight", "storage", "disk", "mb")

    def value(self, finished: Finished, model: str | None) -> tuple[float, float]:
        """Bytes; a size has no baseline."""
        return float(finished.size), 1.0

    def describe(self, value: float, baseline: float) -> str:
        """Megabytes (10^6 bytes), and the bytes for who is just beyond a bound."""
        return f"{value / 1e6:.2f} MB, {value:.0f} bytes"


class Perplexity(Measure):
    """Perplexity of the model as it ships, on the `evaluation` text; baseline: the float model's."""

    name: ClassVar[str] = "perplexity"
    of: ClassVar[Literal["bundle", "model", "device"]] = "model"
    has_baseline: ClassVar[bool] = True
    looks_relative_below: ClassVar[float] = 1.5
    needs_evaluation: ClassVar[bool] = True
    decoders_only: ClassVar[bool] = True
    also_called: ClassVar[tuple[str, ...]] = ("ppl", "loss", "quality", "accuracy", "perplex")

    def value(self, finished: Finished, model: str | None) -> tuple[float, float]:
        """As measured when the model was compiled."""
        if model is None:
            raise ValueError("perplexity is measured of a model")
        return finished.perplexity[model], finished.baseline[model]


class DecodeRate(Measure):
    """Tokens a second of decoding on the device, with the plan's draft if it has one: an estimate."""

    name: ClassVar[str] = "decode.rate"
    of: ClassVar[Literal["bundle", "model", "device"]] = "device"
    unit: ClassVar[Literal["B", "tok/s"] | None] = "tok/s"
    also_called: ClassVar[tuple[str, ...]] = ("speed", "throughput", "tokens_per_second", "tps")
    more_is_better: ClassVar[bool] = True
    key: ClassVar[str] = "decode_rate"

    def value(self, finished: Finished, model: str | None) -> tuple[float, float]:
        """As the manifest's estimate has it; a chip without a published bandwidth makes no token."""
        return float(finished.manifest["estimate"][self.key] or 0.0), 1.0

    def describe(self, value: float, baseline: float) -> str:
        """The rate, and that nothing was run."""
        return f"{value:.1f} tok/s, estimated"


class PrefillRate(DecodeRate):
    """Tokens a second of reading prompts on the device, over the histogram of their lengths: an estimate."""

    name: ClassVar[str] = "prefill.rate"
    also_called: ClassVar[tuple[str, ...]] = ("prompt", "ttft")
    key: ClassVar[str] = "prefill_rate"


class PeakMemory(Measure):
    """Bytes that the device needs at once: mapped weights, K/V caches and activations of all models, planned."""

    name: ClassVar[str] = "peak_memory"
    of: ClassVar[Literal["bundle", "model", "device"]] = "device"
    unit: ClassVar[Literal["B", "tok/s"] | None] = "B"
    also_called: ClassVar[tuple[str, ...]] = ("ram", "memory", "rss")

    def value(self, finished: Finished, model: str | None) -> tuple[float, float]:
        """The sum of the models' peaks: all are loaded at once."""
        return float(sum(row["peak"] for row in finished.manifest["memory"].values())), 1.0

    def describe(self, value: float, baseline: float) -> str:
        """Megabytes, and that they are planned."""
        return f"{value / 1e6:.2f} MB, planned"
