"""The conformance grid of windows: the convolutions and poolings of public vision models, two sizes of each.

Every attribute is a word of its class, so a form that is not listed here is not known to be right.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from ....compiler.emit.conformance.measure import Case
from .one_op_graphs import conv, global_pool, pool

Window = dict[str, Any]
_TF = (0, 0, 1, 1)  # what SAME_UPPER pads a window of 3 with stride 2 by


def _window(kernel: int | tuple[int, int], stride: int = 1, pads: Any = 0, **more: Any) -> Window:
    square = (kernel, kernel) if isinstance(kernel, int) else kernel
    return {"kernel": square, "stride": stride, "pads": (pads,) * 4 if isinstance(pads, int) else pads, **more}


_PLAIN = (
    *(_window(k, 1, k // 2) for k in (1, 3, 5, 7, 9)),
    *(_window(k, 2, k // 2) for k in (1, 3, 5, 7)),
    *(_window(3, 1, d, dilation=d) for d in (2, 4, 6, 12, 18)),
    _window(3),
    _window(3, 2),
    _window(3, 2, _TF),
    _window(9),
    _window(2, 2),
    _window(4, 4),
    _window(6, 2, 2),
    _window(11, 4, 2),
    *(_window((1, k), 1, (0, k // 2, 0, k // 2)) for k in (3, 7)),
    *(_window((k, 1), 1, (k // 2, 0, k // 2, 0)) for k in (3, 7)),
)
_PATCHES = (_window(14, 14), _window(16, 16), _window(32, 32))  # of vision transformers
_DEPTHWISE = (
    *(_window(k, 1, k // 2) for k in (1, 3, 5, 7)),
    *(_window(k, 2, k // 2) for k in (3, 5, 7)),
    _window(3, 2, _TF),
    _window(5, 2, (1, 1, 2, 2)),
    _window(3, 1, 2, dilation=2),
)
_GROUPED = (_window(1), _window(3, 1, 1), _window(3, 2, 1))
_MAX = (
    *(_window(k, 1, k // 2) for k in (3, 5, 9, 13)),
    _window(2),
    _window(2, 2),
    _window(3, 2),
    _window(3, 2, 1),
    _window(3, 2, _TF),
    _window(3, 3),
    _window(3, 1, 2, dilation=2),
    *(_window(k, 2, pads, ceil=True) for k, pads in ((2, 0), (3, 0), (3, 1))),
)
_AVERAGE = (
    _window(2),
    _window(2, 2),
    _window(3, 2),
    *(_window(3, stride, 1, include=include) for stride in (1, 2) for include in (False, True)),
    _window(3, 2, _TF),
    _window(5, 3),
    _window(7),
    _window(8),
    *(_window(k, 2, 0, ceil=True) for k in (2, 3)),
    *(_window(3, 2, 1, ceil=True, include=include) for include in (False, True)),
)


def _case(lowering: str, make: Any, **shape: Any) -> Case:
    words = {name: str(value) if isinstance(value, tuple) else value for name, value in shape.items()}
    return Case(lowering, tuple(sorted(words.items())), partial(make, **shape))


def grid() -> Iterator[Case]:
    """Convolutions, then poolings."""
    for kernel in (1, 3, 5):  # the common ones at more sizes
        for channels, size in ((16, 16), (64, 8), (32, 56), (256, 4), (8, 112)):
            shape = {"channels": channels, "size": size, **_window(kernel, 1, kernel // 2)}
            yield _case("conv", conv, inputs=3 if channels == 16 else 32, **shape)
            yield _case("conv", conv, inputs=channels, groups=channels, **shape)
    for window in _PLAIN:
        for channels, inputs, size in ((8, 3, 112), (512, 512, 2)):
            yield _case("conv", conv, channels=channels, inputs=inputs, size=size, **window)
    for channels, inputs in ((2048, 512), (1000, 2048)):
        yield _case("conv", conv, channels=channels, inputs=inputs, size=1, **_window(1))
    for window in _PATCHES:
        for channels, size in ((192, 7), (1024, 16)):
            yield _case("conv", conv, channels=channels, inputs=3, size=size, **window)
    for window in _DEPTHWISE:
        for channels, size in ((8, 112), (1024, 2)):
            yield _case("conv", conv, channels=channels, inputs=channels, size=size, groups=channels, **window)
    for window in _GROUPED:
        for channels, inputs, size, groups in ((16, 16, 56, 2), (512, 512, 2, 32), (64, 32, 8, 32)):
            yield _case("conv", conv, channels=channels, inputs=inputs, size=size, groups=groups, **window)
    for kind, windows in (("MaxPool", _MAX), ("AveragePool", _AVERAGE)):
        for channels, size in ((16, 8), (256, 2), (32, 56)):
            yield _case(f"op.{kind}", partial(pool, kind), channels=channels, size=size, **_window(2, 2))
        for window in windows:
            for channels, size in ((8, 56), (1024, 2), (64, 1)):
                yield _case(f"op.{kind}", partial(pool, kind), channels=channels, size=size, **window)
    for channels, inside in ((8, 56), (16, 8), (32, 8), (256, 8), (2048, 2), (64, 1), (1280, 7)):
        yield _case("op.GlobalAveragePool", global_pool, channels=channels, inside=inside)
