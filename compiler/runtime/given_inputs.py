"""Inputs of a plain graph's call: arrays by name, an image or a sound for the input that looks like one, or random.

.npz     an array for each input
image    [N,C,H,W] or [N,H,W,C] of 1, 3 or 4 channels: resized to fixed sides; floats from 0 to 1, integers to 255
         (`picture.py`)
.wav     [T], [N,T] or [N,1,T]: one channel, floats from -1 to 1 or int16; cut or padded to a fixed T
random   normal floats, 0 and 1 for integers, at sizes of open dimensions that the graph runs with
"""

from __future__ import annotations

import math
import wave
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..diagnostics.diagnostic import fail
from ..files import npz
from ..files.plain_file import open_plain
from .kv_cache import numpy_dtype
from .picture import CHANNELS, pixels

Arrays = dict[str, np.ndarray]
Spec = Mapping[str, Any]

SIZES = (4, 1, 8, 16, 32, 64, 128, 224, 256, 512, 1024, 4096, 16000)  # tried for open dimensions, in this order
_LEAST_SIDE = 8  # an input of a smaller fixed size is no picture


def read_arrays(path: Path) -> Arrays:
    """The arrays of an .npz file by name; nothing pickled is accepted."""
    try:
        return npz.read(path)
    except OSError as error:
        fail("E0922", f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}")
    except ValueError as error:
        fail("E0922", f"`{path}` is not an .npz file of plain arrays: {error}", help="write it with `numpy.savez`")


def candidates(specs: Sequence[Spec], path: Path | None, random: bool, seed: int = 0) -> Iterator[Arrays]:
    """Inputs to try, the first that runs counts: what `path` gives, and random arrays for the rest if `random`."""
    given = {} if path is None else _from_file(path, specs)
    missing = [spec for spec in specs if spec["name"] not in given]
    if not random or not missing:
        yield given
        return
    known = _known_sizes(specs, given)
    open_ = any(not isinstance(d, int) and d not in known for spec in missing for d in spec["shape"])
    for size in SIZES if open_ else SIZES[:1]:
        for first in (1, size) if open_ and size != 1 else (size,):
            rng = np.random.default_rng(seed)
            yield {**given, **{spec["name"]: _random(spec, rng, known, size, first) for spec in missing}}


def _known_sizes(specs: Sequence[Spec], given: Arrays) -> dict[str, int]:
    """The sizes that given arrays have for dimensions with a name."""
    return {
        dim: size
        for spec in specs
        if spec["name"] in given and given[spec["name"]].ndim == len(spec["shape"])
        for dim, size in zip(spec["shape"], given[spec["name"]].shape, strict=True)
        if isinstance(dim, str) and dim
    }


def _random(spec: Spec, rng: np.random.Generator, known: Mapping[str, int], size: int, first: int) -> np.ndarray:
    dims = enumerate(spec["shape"])
    shape = [d if isinstance(d, int) else known.get(d or "", first if axis == 0 else size) for axis, d in dims]
    dtype = numpy_dtype(spec["dtype"])
    if dtype.kind == "O":
        return np.full(shape, "edge", dtype)
    if dtype.kind == "f" or spec.get("quantization") is not None:
        return rng.standard_normal(shape).astype(np.float32)
    return rng.integers(0, 2, shape).astype(dtype)


def _from_file(path: Path, specs: Sequence[Spec]) -> Arrays:
    """The arrays in a file, by what the file begins with."""
    try:
        with open_plain(path) as file:
            start = file.read(12)
    except OSError as error:
        fail("E0922", f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}")
    if start[:4] == b"RIFF" and start[8:12] == b"WAVE":
        return _sound(path, specs)
    if start[:2] == b"PK" or start[:6] == b"\x93NUMPY" or path.suffix == ".npz":
        return read_arrays(path)
    return _image(path, specs)


def _one(path: Path, what: str, fitting: Sequence[Spec], specs: Sequence[Spec]) -> Spec:
    """The input that a file is for."""
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(f"`{spec['name']}` {'x'.join(str(d or '?') for d in spec['shape'])}" for spec in specs)
    many = "no input of the model looks" if not fitting else f"{len(fitting)} inputs of the model look"
    help = "give an .npz file with an array for each input"
    fail("E0927", f"`{path}` is {what}, and {many} like one: {listed}", help=help)


def _image(path: Path, specs: Sequence[Spec]) -> Arrays:
    places = {spec["name"]: at for spec in specs if (at := _channel_axis(spec)) is not None}
    spec = _one(path, "a picture, or no file that is known", [one for one in specs if one["name"] in places], specs)
    axis = places[spec["name"]]
    shape = list(spec["shape"])
    channels = shape[axis]
    height, width = (shape[2], shape[3]) if axis == 1 else (shape[1], shape[2])
    picture = pixels(path, channels, *(side if isinstance(side, int) else None for side in (width, height)))
    if numpy_dtype(spec["dtype"]).kind == "f":
        picture = picture.astype(numpy_dtype(spec["dtype"])) / 255
    picture = picture.transpose(2, 0, 1) if axis == 1 else picture
    return {spec["name"]: np.ascontiguousarray(picture[None])}


def _channel_axis(spec: Spec) -> int | None:
    """Where the channels of a picture are, None for an input that is none."""
    shape = spec["shape"]
    if len(shape) != 4 or numpy_dtype(spec["dtype"]).kind not in "fu":
        return None
    for axis, sides in ((1, shape[2:]), (3, shape[1:3])):
        if shape[axis] in CHANNELS and all(not isinstance(d, int) or d >= _LEAST_SIDE for d in sides):
            return axis
    return None


def _sound(path: Path, specs: Sequence[Spec]) -> Arrays:
    spec = _one(path, "a sound", [spec for spec in specs if _is_sound(spec)], specs)
    samples = _samples(path, numpy_dtype(spec["dtype"]).kind == "f")
    length = spec["shape"][-1]
    if isinstance(length, int):
        samples = np.pad(samples[:length], (0, max(0, length - len(samples))))
    return {spec["name"]: samples.reshape(*(1,) * (len(spec["shape"]) - 1), -1)}


def _is_sound(spec: Spec) -> bool:
    """[T], [N,T] or [N,1,T] of numbers, T open or long."""
    *before, last = spec["shape"] or [1]
    long = not isinstance(last, int) or last >= _LEAST_SIDE
    single = all(not isinstance(size, int) or size == 1 for size in before)
    floats = numpy_dtype(spec["dtype"]).kind == "f" or spec["dtype"] == "int16"
    return floats and long and single and len(before) <= 2


def sound_facts(path: Path) -> dict[str, int] | None:
    """Samples a second, channels and length of a .wav file, which no model checks; None for another file."""
    try:
        with open_plain(path) as file, wave.open(file, "rb") as sound:
            return {"rate": sound.getframerate(), "channels": sound.getnchannels(), "samples": sound.getnframes()}
    except (OSError, EOFError, wave.Error):
        return None


def _samples(path: Path, floats: bool) -> np.ndarray:
    """One channel, the mean of all: float32 from -1 to 1, or int16."""
    try:
        with open_plain(path) as file, wave.open(file, "rb") as sound:
            width, channels = sound.getsampwidth(), sound.getnchannels()
            raw = sound.readframes(sound.getnframes())
            if len(raw) < (stated := sound.getnframes() * width * channels):
                raise wave.Error(f"it was cut: {len(raw)} of {stated} bytes are there")
    except (OSError, EOFError, wave.Error) as error:
        fail("E0922", f"`{path}` is no sound that can be read: {error}", help="save it as PCM of 8, 16, 24 or 32 bits")
    raw = raw[: len(raw) - len(raw) % (width * channels)]
    if width == 1:
        whole = (np.frombuffer(raw, np.uint8).astype(np.int32) - 128) << 24
    elif width == 3:
        parts = np.frombuffer(raw, np.uint8).reshape(-1, 3).astype(np.int32)
        whole = (parts[:, 0] << 8) | (parts[:, 1] << 16) | (parts[:, 2] << 24)
    else:
        whole = np.frombuffer(raw, f"<i{width}").astype(np.int32) << (32 - 8 * width)
    mono = whole.reshape(-1, channels).mean(axis=1) / math.ldexp(1, 31)
    return mono.astype(np.float32) if floats else np.rint(mono * 32768).clip(-32768, 32767).astype(np.int16)
