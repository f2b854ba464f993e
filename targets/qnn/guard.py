"""Holds a graph compiled with HTP's sparse store against the same graph compiled without: bit for bit, on the emulator.

Where HTP takes packed weights for dense ones, it says nothing, and may crash. So each form has a process of its own,
which compiles and runs all graphs of a context, on the same numbers; whatever differs, or does not end well, speaks
against the sparse form.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...compiler.diagnostics.diagnostic import EngineError
from ...compiler.emit.child_process import Child
from ...compiler.files import cache
from ...compiler.files.code_digest import code_digest
from ...compiler.ir.activation_encodings import Encoding
from .htp.chip import Chip, tool_versions
from .htp.emulator import QnnEmulator

KIND = "qnn-guard"
_SPREAD = 1 / 8  # of a type's range, around its zero: enough to move every output, little enough not to saturate
_FEW = 16  # ids below this are in every table

Twin = Callable[[bool, Child], Path]  # compiles a graph, sparse or not, in a process; its EPContext model


class Guard:
    """Both forms of the graphs of one context, compared one graph at a time; `close` ends the processes.

    `together`: the two forms are compiled and run at the same time.
    """

    def __init__(self, chip: Chip, together: bool = False) -> None:
        self._chip, self._together = chip, together
        self._emulators: dict[bool, QnnEmulator] = {}

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End both processes."""
        for emulator in self._emulators.values():
            emulator.process.leave()
        self._emulators = {}

    def compared(self, twin: Twin, feeds: Mapping[str, np.ndarray], what: str) -> tuple[int, int] | str:
        """Bytes of a graph's dense and sparse form, or why the sparse one is not taken."""
        forms = (False, True)
        try:
            with ThreadPoolExecutor(2 if self._together else 1) as pool:
                compiled = list(pool.map(lambda form: self._compile(form, twin, what), forms))
                size, smaller = (sum(file.stat().st_size for file in path.parent.glob("*.bin")) for path in compiled)
                if smaller >= size:
                    return f"sparse it takes {smaller:,} bytes and dense {size:,}, as small linears fill whole pages"
                dense, sparse = pool.map(lambda form: self._run(form, compiled[form], feeds, what), forms)
        except EngineError as error:
            self.close()  # one may have died, and takes no further graph
            return f"it does not run: {error.diagnostics[0].message}"
        return unequal(dense, sparse) or (size, smaller)

    def _emulator(self, sparse: bool) -> QnnEmulator:
        if sparse not in self._emulators:
            self._emulators[sparse] = QnnEmulator(self._chip)
            self._emulators[sparse].process.join()
        return self._emulators[sparse]

    def _compile(self, sparse: bool, twin: Twin, what: str) -> Path:
        process = self._emulator(sparse).process
        return process.using(f"the HTP compiler for {what}", lambda child: twin(sparse, child))

    def _run(self, sparse: bool, path: Path, feeds: Mapping[str, np.ndarray], what: str) -> dict[str, np.ndarray]:
        session = self._emulator(sparse).open(path, what)
        try:
            return session.run(feeds)
        finally:
            session.close()


def unequal(dense: Mapping[str, np.ndarray], sparse: Mapping[str, np.ndarray]) -> str | None:
    """How the outputs of two forms differ, bit for bit; None where they do not, and say something."""
    if not any(len(np.unique(array)) > 1 for array in dense.values()):
        return "nothing moves its outputs, so nothing is known of it"
    for name, array in dense.items():
        if array.tobytes() != sparse[name].tobytes():
            count = np.count_nonzero(array != sparse[name])
            return f"{count} of {array.size} numbers of `{name}` are others than the dense form's"
    return None


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


def guard_key(targets: str, graphs: Sequence[str], chip: Chip) -> str:
    """What a verdict hangs on: graphs with their weights (`targets`, the key they lie under), chip, engine, code."""
    facts = [targets, sorted(graphs), asdict(chip), tool_versions(), code_digest("edgec.targets.qnn")]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def known_sizes(key: str) -> tuple[int, int] | None:
    """Bytes of the first graph, dense and sparse, if all graphs were once seen to compute the same."""
    try:
        dense, sparse = (int(size) for size in json.loads(cache.read_note(KIND, key) or "null"))
    except (TypeError, ValueError):
        return None
    return (dense, sparse) if 0 < sparse < dense else None


def keep_sizes(key: str, sizes: tuple[int, int] | None) -> None:
    """Keep a verdict for `known_sizes`."""
    if sizes is not None:
        with contextlib.suppress(OSError):  # a cache that can only be read
            cache.write_note(KIND, key, json.dumps(sizes))
