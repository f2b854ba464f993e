"""The published rates of `published.toml`, with the work behind each."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .work import ModelWork, decoder_work


@dataclass(frozen=True)
class Rate:
    """`rate` tokens per second of decoding `work`, whose model has this `shape`."""

    chip: str
    model: str
    rate: float
    work: ModelWork
    shape: tuple[int, ...]

    @property
    def seconds(self) -> float:
        """Of a call, what an app waits for it left out."""
        return 1 / self.rate - published()["call"]["seconds"]


@functools.cache
def published() -> Mapping[str, Any]:
    """The tables as they stand."""
    return tomllib.loads(Path(__file__).with_name("published.toml").read_text(encoding="utf-8"))


def shape_of(model: str) -> tuple[int, ...]:
    """Layers, hidden, heads' width, K/V width, intermediate, vocabulary of a model in the tables."""
    return tuple(published()["shapes"][model])


def decode_work(model: str) -> ModelWork:
    """A model of the tables in the formats and at the context of the published rates."""
    table = published()["npu_decode"]
    widths = table["linear_bytes"], table["head_bytes"], table["cache_bytes"]
    return decoder_work(model, shape_of(model), table["context"], *widths)


def npu_rates() -> list[Rate]:
    """Every published rate of decoding on an NPU."""
    return [
        Rate(chip, model, rate, decode_work(model), shape_of(model))
        for chip, rates in published()["npu_decode"].items()
        if isinstance(rates, dict)
        for model, rate in rates.items()
    ]
