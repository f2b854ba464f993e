"""Holds a graph compiled with HTP's sparse store against the same graph compiled without: bit for bit, on the emulator.

Where HTP takes packed weights for dense ones, it says nothing, and may crash. So both forms run in processes of their
own, on the same numbers; whatever differs, or does not end well, speaks against the sparse form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...compiler.diagnostics.diagnostic import EngineError
from ...compiler.ir.activation_encodings import Encoding
from .htp.chip import Chip
from .htp.emulator import QnnEmulator

_SPREAD = 1 / 8  # of a type's range, around its zero: enough to move every output, little enough not to saturate
_FEW = 16  # ids below this are in every table


def compared(
    chip: Chip, twin: Callable[[bool], Path], feeds: Mapping[str, np.ndarray], what: str, together: bool = False
) -> tuple[int, int] | str:
    """Bytes of a graph's dense and sparse form, or why the sparse one is not taken: other outputs, or no smaller.

    `twin` compiles the graph, sparse or not, and gives its EPContext model. `together`: both forms at the same time.
    """
    try:
        with ThreadPoolExecutor(2 if together else 1) as pool:
            paths = list(pool.map(twin, (False, True)))
            size, smaller = (sum(file.stat().st_size for file in path.parent.glob("*.bin")) for path in paths)
            if smaller >= size:
                return f"sparse it takes {smaller:,} bytes and dense {size:,}, as small linears fill whole pages"
            dense, sparse = pool.map(lambda path: _run(chip, path, feeds, what), paths)
    except EngineError as error:
        return f"it does not run: {error.diagnostics[0].message}"
    if not any(len(np.unique(array)) > 1 for array in dense.values()):
        return "nothing moves its outputs, so nothing is known of it"
    for name, array in dense.items():
        if array.tobytes() != sparse[name].tobytes():
            count = np.count_nonzero(array != sparse[name])
            return f"{count} of {array.size} numbers of `{name}` are others than the dense form's"
    return size, smaller


def _run(chip: Chip, path: Path, feeds: Mapping[str, np.ndarray], what: str) -> dict[str, np.ndarray]:
    emulator = QnnEmulator(chip)
    emulator.join()
    try:
        session = emulator.open(path, what)
        try:
            return session.run(feeds)
        finally:
            session.close()
    finally:
        emulator.leave()


def random_feeds(model: ir.Model, encodings: Mapping[str, Encoding]) -> dict[str, np.ndarray]:
    """Numbers for every input of a target-level graph, the same ones always."""
    rng, found = np.random.default_rng(0), {}
    for value in model.graph.inputs:
        name, dtype = value.name or "", (value.dtype or ir.DataType.FLOAT).numpy()
        shape = tuple(int(size) for size in value.shape or () if isinstance(size, int))
        if name in encodings:
            limits = np.iinfo(dtype)
            spread = (int(limits.max) - int(limits.min)) * _SPREAD
            numbers = rng.normal(encodings[name].zero_point, spread, shape).round()
            found[name] = numbers.clip(limits.min, limits.max).astype(dtype)
        elif dtype.kind in "iu":
            found[name] = rng.integers(0, _FEW, shape).astype(dtype)
        else:
            found[name] = rng.normal(size=shape).astype(dtype)
    return found
