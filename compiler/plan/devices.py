"""The chips a plan can name: `devices.toml`, read as it stands.

A figure nobody published is absent (None), never guessed; `sources` tells where each one is from.
"""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from ..diagnostics.nearest import nearest_help


@dataclass(frozen=True)
class Cores:
    """A group of equal CPU cores."""

    name: str
    count: int
    ghz: float


@dataclass(frozen=True)
class Device:
    """One row of devices.toml: a chip, or `host` for this machine. None where the maker publishes nothing."""

    name: str
    marketing: str
    sm: str | None = None  # part number, SM8650
    soc: int | None = None  # QNN's `soc_model`
    arch: str | None = None  # Hexagon architecture, v75
    vtcm_mb: int | None = None
    bandwidth_gbs: float | None = None  # peak of the memory interface
    npu_int8_tops: float | None = None
    cores: tuple[Cores, ...] = ()
    max_ram_gb: int | None = None
    also_called: tuple[str, ...] = ()  # names it was announced under, for help texts
    sources: dict[str, str] = field(default_factory=dict, compare=False)

    @property
    def has_npu(self) -> bool:
        """Whether the chip has an NPU that a target compiles for."""
        return self.arch is not None

    @property
    def is_host(self) -> bool:
        """Whether this is the machine edgec runs on."""
        return self.name == "host"


@functools.cache
def devices() -> dict[str, Device]:
    """Every known device by its name in plans, in the order of the table."""
    table = tomllib.loads(Path(__file__).with_name("devices.toml").read_text(encoding="utf-8"))
    return {name: _device(name, row) for name, row in table.items()}


def _device(name: str, row: dict) -> Device:
    row = dict(row)
    cores = tuple(Cores(**group) for group in row.pop("cores", ()))
    names = tuple(row.pop("also_called", ()))
    return Device(name=name, cores=cores, also_called=names, sources=row.pop("source", {}), **row)


def resolve_device(name: str) -> Device | None:
    """The device that `name` means: its name in plans, its part number with or without a speed grade (`SM8650`,
    `SM8650-AC`, as `ro.soc.model` says it), or the name it is sold under; None if it is no known one.
    """
    folded = _fold(name)
    for device in devices().values():
        if folded in map(_fold, (device.name, device.sm or device.name, device.marketing, *device.also_called)):
            return device
        if device.sm is not None and re.fullmatch(device.sm.lower() + "[a-z]{0,2}", folded):
            return device
    return None


def known_help(name: str) -> str:
    """What to write instead of the unknown `name`: the nearest names and part numbers, else where all are listed.

    A whole part number (`sm8250`) is another chip, and no slip.
    """
    parts = [device.sm.lower() for device in devices().values() if device.sm is not None]
    near = list(devices()) if re.fullmatch(r"sm\d{4}[a-z]{0,2}", _fold(name)) else [*devices(), *parts]
    return nearest_help(name, near, "device") or "`edgec devices` lists them"


def _fold(name: str) -> str:
    """`Qualcomm Snapdragon 8+ Gen 1 Mobile Platform` and `snapdragon_8_plus_gen_1` are one name."""
    text = name.lower().replace("+", "plus")
    for word in ("qualcomm", "snapdragon", "mobile platform", "for galaxy"):
        text = text.replace(word, "")
    return re.sub(r"[^a-z0-9]", "", text)
