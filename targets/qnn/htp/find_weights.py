"""Where the weights of a graph lie in the context binary that was compiled of it, and the weights read back from there.

    find   weights, binary  ->  of each its layout and the place of every tile; None where it is in no known form
    read   places, binary   ->  the weight's bytes as the compiler was given them

Only equal bytes count as found. Tiles are looked up by the hash of their first 32 bytes among all places that are a
multiple of 64, which is where the compiler puts them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from ....compiler.ir.packing import pack_rows, unpack_rows
from .weight_layouts import BY_NAME, LAYOUTS, Layout

WHOLE = "as it is"
_STEP, _KEY = 64, 32  # bytes between places of tiles, bytes of the hash
_TRIES = 64  # places with the same hash that are looked at: of tiles of zeros there are many, and one is enough
_MOST = 0.5  # of the tiles of the first band, for a layout to be the one
_NUMBERS = 1 << 22  # of a weight, held at a time
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], np.uint64)


@dataclass(frozen=True)
class Held:
    """A weight as the graph holds it: `length` bytes at `offset` of the file of weights."""

    name: str
    offset: int
    length: int
    dtype: str  # ONNX's name of it
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """A weight in the binary: the place of each tile, in the order of `Layout.tiles`; -1: it is not there."""

    layout: str
    places: np.ndarray  # int64 [tiles]

    def share(self) -> float:
        """How much of the weight is there."""
        return float((self.places >= 0).mean())


class TileFinder:
    """Finds bytes in one context binary."""

    def __init__(self, binary: np.ndarray) -> None:
        self._binary = binary
        whole = len(binary) // _STEP
        words = binary[: whole * _STEP].view(np.uint64).reshape(whole, _STEP // 8)[:, : _KEY // 8]
        keys = _hashes(words)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def find(self, held: Held, weights: np.ndarray) -> Found | None:
        """Where `held`, of the file of weights, lies in the binary; None where most of it is not to be found."""
        if held.length < _KEY:
            return None
        raw = weights[held.offset : held.offset + held.length]
        start = self._place(raw[None, :_KEY], raw)
        if start is not None:
            return Found(WHOLE, np.array([start], np.int64))
        for layout in LAYOUTS.get(held.dtype, ()):
            if (shape := _shape(held, layout)) is not None:
                places = self._tiles(_View(held, layout, shape, raw))
                if places is not None:
                    return Found(layout.name, places)
        return None

    def _place(self, key: np.ndarray, raw: np.ndarray) -> int | None:
        """A place where all of `raw` stands."""
        for place in self._candidates(key):
            held = self._binary[place : place + len(raw)]
            if len(held) == len(raw) and all(
                np.array_equal(held[at : at + _NUMBERS], raw[at : at + _NUMBERS]) for at in range(0, len(raw), _NUMBERS)
            ):
                return int(place)
        return None

    def _candidates(self, key: np.ndarray) -> np.ndarray:
        wanted = _hashes(np.ascontiguousarray(key).view(np.uint64))[0]
        first = int(np.searchsorted(self._keys, wanted))
        same = self._keys[first : first + _TRIES] == wanted
        return self._order[first : first + _TRIES][same] * _STEP

    def _tiles(self, view: _View) -> np.ndarray | None:
        found = []
        for tiles in view.tiles():
            found.append(np.where(view.layout.formed(tiles), self._places(tiles), -1))
            if (found[0] >= 0).mean() < _MOST:
                return None
        return np.concatenate(found)

    def _places(self, tiles: np.ndarray) -> np.ndarray:
        """[tiles] where each of them stands, -1 where one does not."""
        wanted = _hashes(np.ascontiguousarray(tiles[:, :_KEY]).view(np.uint64))
        at = np.searchsorted(self._keys, wanted)
        places, left = np.full(len(tiles), -1, np.int64), np.arange(len(tiles))
        for _ in range(_TRIES):
            left = left[at[left] < len(self._keys)]
            left = left[self._keys[at[left]] == wanted[left]]
            if not len(left):
                break
            tried = self._order[at[left]] * _STEP
            equal = (_gather(self._binary, tried, tiles.shape[1]) == tiles[left]).all(axis=1)
            places[left[equal]] = tried[equal]
            left = left[~equal]
            at[left] += 1
        return places


def missing(held: Held, found: Found, weights: np.ndarray) -> Iterator[bytes]:
    """The numbers of the tiles that are not in the binary, for `read`."""
    if found.layout != WHOLE and (found.places < 0).any():
        layout = BY_NAME[found.layout]
        shape = _shape(held, layout)
        if shape is not None:
            yield from _View(held, layout, shape, weights[held.offset : held.offset + held.length]).dense(found.places)


def read(held: Held, found: Found, binary: np.ndarray, weights: np.ndarray, rest: IO[bytes]) -> None:
    """Put the weight into `weights` as it stands in the binary, what is not there from `rest` (see `missing`).

    IndexError, ValueError: `found` does not fit it.
    """
    raw = weights[held.offset : held.offset + held.length]
    if found.layout == WHOLE:
        start = int(found.places[0])
        if start < 0 or start + held.length > len(binary):
            raise IndexError(f"`{held.name}` would end behind the binary")
        for at in range(0, held.length, _NUMBERS):
            size = min(_NUMBERS, held.length - at)
            raw[at : at + size] = binary[start + at : start + at + size]
        return
    layout = BY_NAME[found.layout]
    shape = _shape(held, layout)
    if shape is None:
        raise ValueError(f"`{held.name}` has not the shape of {found.layout}")
    _View(held, layout, shape, raw).put(found.places, binary, rest)


def digest(held: Held, weights: np.ndarray) -> str:
    """The sha256 of the weight's bytes."""
    made = hashlib.sha256()
    end = held.offset + held.length
    for at in range(held.offset, end, _NUMBERS):
        made.update(weights[at : min(at + _NUMBERS, end)].tobytes())
    return made.hexdigest()


def _hashes(words: np.ndarray) -> np.ndarray:
    """[rows] of uint64 [rows, 4]."""
    with np.errstate(over="ignore"):
        mixed = words * _FACTORS
        return np.bitwise_xor.reduce(mixed ^ (mixed >> np.uint64(29)), axis=1)


def _gather(binary: np.ndarray, places: np.ndarray, size: int) -> np.ndarray:
    """uint8 [places, size]; zeros behind the end."""
    inside = (places >= 0) & (places + size <= len(binary))
    made = np.zeros((len(places), size), np.uint8)
    if inside.any():
        made[inside] = np.lib.stride_tricks.sliding_window_view(binary, size)[places[inside]]
    return made


def _shape(held: Held, layout: Layout) -> tuple[int, int] | None:
    """(outputs, inputs) of a weight in a layout; None if it cannot be in it."""
    if layout.outputs_last:
        if len(held.dims) != 2:
            return None
        inputs, outputs = held.dims
    else:
        if len(held.dims) < 2:
            return None
        outputs = held.dims[0]
        inputs = held.length * 8 // layout.bits // outputs if outputs else 0
    if not outputs or not inputs or outputs * inputs * layout.bits != held.length * 8:
        return None
    even = (outputs if layout.outputs_last else inputs) % max(1, 8 // layout.bits) == 0
    big = layout.tile_bytes(inputs) >= _KEY
    return (outputs, inputs) if even and big and layout.fits(outputs, inputs) else None


class _View:
    """The bytes of a weight as outputs and inputs, taken and put in bands of outputs."""

    def __init__(self, held: Held, layout: Layout, shape: tuple[int, int], raw: np.ndarray) -> None:
        self.layout = layout
        self._outputs, self._inputs = shape
        self._packed = max(1, 8 // layout.bits)  # numbers in a byte
        rows, columns = shape[::-1] if layout.outputs_last else shape
        kind = np.uint16 if layout.bits == 16 else np.uint8
        self._held = raw.view(kind).reshape(rows, columns // self._packed)

    def _bands(self) -> Iterator[tuple[int, int]]:
        size = max(1, _NUMBERS // (self._inputs * self.layout.width)) * self.layout.width
        for start in range(0, self._outputs, size):
            yield start, min(start + size, self._outputs)

    def _band(self, start: int, stop: int) -> np.ndarray:
        """The part of the held bytes that has these outputs."""
        if self.layout.outputs_last:
            return self._held[:, start // self._packed : stop // self._packed]
        return self._held[start:stop]

    def _numbers(self, start: int, stop: int) -> np.ndarray:
        """[outputs, K] of a band, a number each."""
        band = np.asarray(self._band(start, stop))
        if self._packed > 1:
            band = unpack_rows(band, self.layout.bits, band.shape[1] * self._packed, "little")
        return np.ascontiguousarray(band.T if self.layout.outputs_last else band)

    def _by_tiles(self, numbers: np.ndarray) -> np.ndarray:
        """[outputs, K] as [outputs / width, K / depth, width, depth], a view."""
        width, depth = self.layout.width, self.layout.depth or self._inputs
        return numbers.reshape(-1, width, self._inputs // depth, depth).transpose(0, 2, 1, 3)

    def tiles(self) -> Iterator[np.ndarray]:
        """uint8 [tiles, bytes of one], band by band."""
        for start, stop in self._bands():
            yield self.layout.tiles(self._numbers(start, stop))

    def dense(self, places: np.ndarray) -> Iterator[bytes]:
        """The numbers of tiles without a place, one after the other."""
        for (start, stop), own in zip(self._bands(), self._parted(places), strict=True):
            if (own < 0).any():
                tiles = self._by_tiles(self._numbers(start, stop))
                yield tiles.reshape(len(own), -1)[own < 0].tobytes()

    def put(self, places: np.ndarray, binary: np.ndarray, rest: IO[bytes]) -> None:
        """Fill the weight with the tiles at `places`, and from `rest` where there is none."""
        size, depth = self.layout.tile_bytes(self._inputs), self.layout.depth or self._inputs
        if len(places) != self._outputs // self.layout.width * (self._inputs // depth):
            raise IndexError("tiles of another number")
        if (places < -1).any() or (places + size > len(binary)).any():
            raise IndexError("tiles that the binary does not have")
        for (start, stop), own in zip(self._bands(), self._parted(places), strict=True):
            band = self.layout.numbers(_gather(binary, own, size), self._inputs)
            if (own < 0).any():
                gaps = np.argwhere((own < 0).reshape(-1, self._inputs // depth))
                tiles = self._by_tiles(band)
                for place in map(tuple, gaps):
                    raw = rest.read(tiles[place].size * band.itemsize)
                    tiles[place] = np.frombuffer(raw, band.dtype).reshape(tiles[place].shape)
            band = np.ascontiguousarray(band.T) if self.layout.outputs_last else band
            if self._packed > 1:
                band = pack_rows(band, self.layout.bits, "little")
            self._band(start, stop)[:] = band

    def _parted(self, places: np.ndarray) -> Iterator[np.ndarray]:
        """The places of each band's tiles."""
        depth, done = self.layout.depth or self._inputs, 0
        for start, stop in self._bands():
            number = (stop - start) // self.layout.width * (self._inputs // depth)
            yield places[done : done + number]
            done += number
