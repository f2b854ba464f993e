"""Integers of 1 to 4 bits as bit planes, the layout of `ai.edgec::LutGemv`.

    u [N, K] uint8, 0 <= u < 2^bits   ->   planes [P, K/32, bits, 4, 64] uint8        P = ceil(N / 64)

A panel has 64 outputs in four tiles of 16. Of every 32 inputs and every bit a tile has 64 bytes, [16 outputs][4
groups]: the low half of a byte has that bit of the inputs 4 g to 4 g + 3, lowest first, the high half of the inputs
16 + 4 g to 16 + 4 g + 3. Outputs beyond N are zeros.
"""

from __future__ import annotations

import numpy as np

PANEL = 64  # outputs
TILE = 16  # outputs whose bytes stand together
EXTENT = 32  # inputs of one byte of each output


def panels(outputs: int) -> int:
    """How many panels hold `outputs` outputs."""
    return -(-outputs // PANEL)


def to_planes(u: np.ndarray, bits: int) -> np.ndarray:
    """Planes [P, K/32, bits, 4, 64] of the integers `u` [N, K]."""
    n, k = u.shape
    u = np.pad(u, ((0, panels(n) * PANEL - n), (0, 0)))
    made = np.empty((panels(n), k // EXTENT, bits, PANEL // TILE, TILE * 4), np.uint8)
    for bit in range(bits):
        places = (u >> np.uint8(bit) & 1).reshape(panels(n), PANEL // TILE, TILE, k // EXTENT, 2, 4, 4)
        halves = np.packbits(places, axis=-1, bitorder="little")[..., 0]  # [P, tile, output, K/32, half, group]
        whole = halves[..., 0, :] | halves[..., 1, :] << 4
        made[:, :, bit] = whole.transpose(0, 3, 1, 2, 4).reshape(made[:, :, bit].shape)
    return made


def from_planes(planes: np.ndarray) -> np.ndarray:
    """Integers [P * 64, K] uint8 of `planes`."""
    count, extents, bits, tiles, _ = planes.shape
    made = np.zeros((count * PANEL, extents * EXTENT), np.uint8)
    for bit in range(bits):
        whole = planes[:, :, bit].reshape(count, extents, tiles, TILE, 4)
        # [P, K/32, tile, output, half, group]
        halves = np.stack([whole & np.uint8(15), whole >> np.uint8(4)], axis=-2).astype(np.uint8)
        places = np.unpackbits(halves[..., None], axis=-1, count=4, bitorder="little")
        made |= places.transpose(0, 2, 3, 1, 4, 5, 6).reshape(made.shape) << np.uint8(bit)
    return made


def to_panels(rows: np.ndarray) -> np.ndarray:
    """Values of each block [N, K/B] as [P, K/B, 64]."""
    n, blocks = rows.shape
    filled = np.pad(rows, ((0, panels(n) * PANEL - n), (0, 0)))
    return np.ascontiguousarray(filled.reshape(panels(n), PANEL, blocks).transpose(0, 2, 1))


def from_panels(held: np.ndarray) -> np.ndarray:
    """Values of each block as rows [P * 64, K/B]."""
    count, blocks, _ = held.shape
    return held.transpose(0, 2, 1).reshape(count * PANEL, blocks)
