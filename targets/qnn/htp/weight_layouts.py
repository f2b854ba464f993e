"""How the HTP compiler lays weights out in a context binary, where it moves their numbers and does not change them.

A weight of N outputs and K inputs lies in tiles, each in one piece; between tiles there may be anything:

    tile = [depth / group][width][group]        `depth` inputs of `width` outputs, a group's inputs in a fixed order

Found by compiling graphs whose weights hold their own places; the same for v69 to v81 with QNN's build 2.51. Nothing
rests on that being complete: a weight that is in none of these forms is known to be in none, and nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....compiler.ir.packing import pack_rows, unpack_rows


@dataclass(frozen=True)
class Layout:
    """One form of a weight in tiles. `outputs_last`: outside of the binary it is [K, N], not [N, K]."""

    name: str
    bits: int  # of a number: 2, 4, 8 or 16
    outputs_last: bool
    width: int  # outputs of a tile
    order: tuple[int, ...]  # the inputs of a group as they follow each other
    depth: int = 0  # inputs of a tile; 0: all
    flip: int = 0  # bits that are stored inverted: a shifted integer made signed, or the reverse
    split: bool = False  # 16 bits as a signed low byte and what that leaves, group by group

    def fits(self, outputs: int, inputs: int) -> bool:
        """Whether a weight of this shape divides into tiles."""
        return not (outputs % self.width or inputs % (self.depth or 1) or inputs % len(self.order))

    def tile_bytes(self, inputs: int) -> int:
        """Bytes of one tile."""
        return self.width * (self.depth or inputs) * self.bits // 8

    def tiles(self, numbers: np.ndarray) -> np.ndarray:
        """[outputs, K] as uint8 [tiles, bytes of a tile], all inputs of some outputs before other outputs."""
        inputs, group = numbers.shape[1], len(self.order)
        depth = self.depth or inputs
        parted = numbers.reshape(-1, self.width, inputs // depth, depth // group, group)[..., self.order]
        parted = parted.transpose(0, 2, 3, 1, 4).reshape(-1, depth // group, self.width, group)
        parted = parted ^ numbers.dtype.type(self.flip)
        if self.split:
            signed = parted.view(np.int16).astype(np.int32)
            low = (signed & 255).astype(np.uint8)
            parted = np.stack([low, ((signed - low.view(np.int8)) >> 8).astype(np.uint8)], axis=-2)
        flat = np.ascontiguousarray(parted).view(np.uint8).reshape(len(parted), -1)
        return pack_rows(flat, self.bits, "little") if self.bits < 8 else flat

    def formed(self, tiles: np.ndarray) -> np.ndarray:
        """Which of `tiles` the layout has a form for, as booleans."""
        return np.ones(len(tiles), bool)

    def numbers(self, tiles: np.ndarray, inputs: int) -> np.ndarray:
        """The inverse of `tiles`: uint8 [tiles, bytes of a tile] as [outputs, K]."""
        group, depth = len(self.order), self.depth or inputs
        count = self.width * depth
        flat = unpack_rows(tiles, self.bits, count, "little") if self.bits < 8 else np.ascontiguousarray(tiles)
        if self.split:
            halves = flat.reshape(-1, depth // group, self.width, 2, group)
            low = np.ascontiguousarray(halves[..., 0, :]).view(np.int8)
            parted = ((halves[..., 1, :].astype(np.int32) << 8) + low).astype(np.uint16)
        else:
            kind = np.uint16 if self.bits == 16 else np.uint8
            parted = flat.reshape(len(tiles), -1).view(kind).reshape(-1, depth // group, self.width, group)
        made = np.empty_like(parted)
        made[..., self.order] = parted
        made = made.reshape(-1, inputs // depth, depth // group, self.width, group).transpose(0, 3, 1, 2, 4)
        return made.reshape(-1, inputs) ^ made.dtype.type(self.flip)


@dataclass(frozen=True)
class Sparse(Layout):
    """int8 in the sparse store: of every four inputs the two that are not zero, and a bit for each input.

        tile = 32 inputs of 32 outputs = [128 values][32 x 32 bits][384 values]

    A tile with another number of zeros is packed otherwise; it is looked for in vain and carried as it is.
    """

    def tile_bytes(self, inputs: int) -> int:
        """Five eighths of the numbers."""
        return 640

    def tiles(self, numbers: np.ndarray) -> np.ndarray:
        """As `Layout.tiles`; all ones where there is no such tile."""
        inputs = numbers.shape[1]
        parted = numbers.reshape(-1, 32, inputs // 32, 4, 2, 4).transpose(0, 2, 1, 3, 4, 5).reshape(-1, 32, 4, 2, 4)
        mask = parted != 0  # [tiles, output, eight of inputs, half, input]
        fits = (mask.sum(axis=-1) == 2).all(axis=(1, 2, 3))
        made = np.full((len(parted), 640), 255, np.uint8)
        kept = parted[fits][mask[fits]].reshape(-1, 8, 4, 4, 2, 2).transpose(0, 3, 1, 4, 2, 5).reshape(-1, 512)
        bits = np.packbits(mask[fits].transpose(0, 1, 4, 2, 3).reshape(-1, 1024), axis=1, bitorder="little")
        made[fits] = np.concatenate([kept[:, :128], bits, kept[:, 128:]], axis=1)
        return made

    def formed(self, tiles: np.ndarray) -> np.ndarray:
        """Those of two numbers in four."""
        return (tiles[:, 128:256] != 255).any(axis=1)

    def numbers(self, tiles: np.ndarray, inputs: int) -> np.ndarray:
        """As `Layout.numbers`; zeros where there is no such tile."""
        bits = np.unpackbits(np.ascontiguousarray(tiles[:, 128:256]), axis=1, bitorder="little")
        mask = bits.reshape(-1, 32, 4, 4, 2).transpose(0, 1, 3, 4, 2).astype(bool)
        fits = (mask.sum(axis=-1) == 2).all(axis=(1, 2, 3))
        values = np.concatenate([tiles[:, :128], tiles[:, 256:]], axis=1)[fits].reshape(-1, 4, 8, 2, 4, 2)
        made = np.zeros(mask.shape, np.uint8)
        made[mask & fits[:, None, None, None, None]] = values.transpose(0, 2, 4, 1, 3, 5).reshape(-1)
        return made.reshape(-1, inputs // 32, 32, 32).transpose(0, 2, 1, 3).reshape(-1, inputs)


_SIXTEEN = (3, 5, 7, 9, 11, 13, 15, 0, 2, 4, 6, 8, 10, 12, 14, 1)

# by the type of the weight in the graph that the compiler was given
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "UINT8": (
        Layout("blocked int4", 4, False, 32, (5, 7, 0, 2, 4, 6, 1, 3)),
        Layout("blocked int4, signed", 4, False, 32, (5, 7, 0, 2, 4, 6, 1, 3), flip=8),
        Layout("blocked int8", 8, False, 32, (0, 2, 1, 3)),
        Layout("blocked int8, signed", 8, False, 32, (0, 2, 1, 3), flip=128),
        Layout("blocked int2", 2, False, 32, _SIXTEEN),
        Layout("blocked int2, signed", 2, False, 32, _SIXTEEN, flip=2),
        Layout("integer scales", 8, True, 64, (0,), depth=1),
    ),
    "INT4": (Layout("int4", 4, True, 32, (0, 4, 1, 5, 2, 6, 3, 7), depth=32),),
    "INT8": (
        Layout("int8", 8, True, 32, (0, 1, 2, 3), depth=32),
        Sparse("sparse int8", 8, True, 32, (0, 1, 2, 3), depth=32),
    ),
    "INT16": (Layout("int16", 16, True, 16, (0, 1, 2, 3), split=True),),
    "FLOAT16": (Layout("scales", 16, False, 32, (0,)), Layout("fp16", 16, True, 32, (0, 1))),
}
BY_NAME = {layout.name: layout for layouts in LAYOUTS.values() for layout in layouts}
