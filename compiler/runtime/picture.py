"""The pixels of a picture file, for an input of a graph; files come from strangers.

Only the formats of `_FORMATS` are looked at, whatever a file is called, and no file of more than `_MOST` pixels is
unpacked: a few kilobytes may unpack to gigabytes. A photograph is turned as its camera says; of several frames it is
the first.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from ..diagnostics.diagnostic import fail
from ..files.plain_file import open_plain

if TYPE_CHECKING:
    from PIL.Image import Image

CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_KNOWN = "PNG, JPEG, BMP and WebP are read"
_MOST = 64 << 20  # pixels: 256 MiB of four channels
_LONGEST_REASON = 160


def pixels(path: Path, channels: int, width: int | None, height: int | None) -> np.ndarray:
    """[H,W,C] uint8, resized where a side is given; E0922 for what is no such picture, E0927 without Pillow."""
    library = _pillow(path)
    try:
        with open_plain(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", library.DecompressionBombWarning)  # of sizes that are refused below
            with library.open(file, formats=_FORMATS) as opened:
                if opened.width * opened.height > _MOST:
                    size = f"{opened.width}x{opened.height} pixels"
                    fail("E0922", f"`{path}` has {size}, and {_MOST} are allowed", help="make it smaller")
                picture = _upright(_of_8_bits(opened, library)).convert(CHANNELS[channels])
    except library.UnidentifiedImageError:
        fail("E0922", f"`{path}` is no picture of a format that is read", help=_KNOWN)
    except library.DecompressionBombError:
        fail("E0922", f"`{path}` has more than {_MOST} pixels", help="make it smaller")
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        OverflowError,
    ) as error:  # Pillow's, for broken files
        first = (str(error).splitlines() or [type(error).__name__])[0][:_LONGEST_REASON]
        fail("E0922", f"`{path}` is no picture that can be read: {first}", help=_KNOWN)
    wanted = (width or picture.width, height or picture.height)
    if wanted != picture.size:
        picture = picture.resize(wanted)
    return np.asarray(picture, np.uint8).reshape(picture.height, picture.width, channels)


def _pillow(path: Path) -> ModuleType:
    try:
        from PIL import Image
    except ImportError:
        help = "`pip install 'edgec[image]'`, or give an .npz file with an array for each input"
        fail("E0927", f"`{path}` may be a picture, which Pillow reads, and that is not installed", help=help)
    return Image


def _of_8_bits(opened: Image, library: ModuleType) -> Image:
    """Grey of 16 bits as 8: Pillow would cut what is above 255 off."""
    if not opened.mode.startswith("I"):
        return opened
    return library.fromarray((np.asarray(opened).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


def _upright(picture: Image) -> Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(picture)
