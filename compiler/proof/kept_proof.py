"""Verdicts of proofs in the cache, so that a graph is proven once, whatever is compiled around it.

    graph with its weights, numbers, arithmetic, engine, code   ->   what proved it | the nodes it cannot have

Lowering and emitting ask for the same parts, a cut around one node leaves other parts as they were, and a compile that
was stopped goes on where it was. A run of the emulator may take minutes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..files import cache
from ..files.code_digest import code_digest
from ..ir.graph_digest import graph_digest
from .errors import FLOAT16, FLOAT32, INTEGERS
from .not_taken import NotTaken, Wrong
from .prove import Proven

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..oracle.probes import Trial
    from .prove import Proof

KIND = "proof"
_CODE = ("edgec.compiler.proof", "edgec.compiler.oracle")
_ARITHMETICS = {one.name: one for one in (FLOAT16, FLOAT32, INTEGERS)}


def proven_once(proof: Proof, engine: Sequence[object], judge: Callable[[], Proven]) -> Proven:
    """What `judge` finds, or found before with the same graph, numbers and `engine`: its versions, its chip, its code.

    NotTaken is kept as well. An engine that fails otherwise is asked again the next time.
    """
    key = _key(proof.model, proof.trials, [proof.engine, proof.name, proof.arithmetic, *engine])
    held = _read(key)
    if held is not None:
        proof.say(f"{proof.name}: proven before with the same numbers; its verdict is in the cache")
        if isinstance(held, NotTaken):
            raise held
        return held
    try:
        found = judge()
    except NotTaken as refused:
        _write(key, {"engine": refused.engine, "model": refused.model, "nodes": [asdict(one) for one in refused.nodes]})
        raise
    _write(key, found.facts())
    return found


def _key(model: ir.Model, trials: Sequence[Trial], facts: Sequence[object]) -> str:
    made = hashlib.sha256(repr([*facts, code_digest(*_CODE), graph_digest(model)]).encode())
    for trial in trials:
        for name, array in sorted(trial.feeds.items()):
            made.update(f"{trial.kind} {name} {array.dtype} {array.shape}".encode())
            made.update(repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes())
    return made.hexdigest()


def _read(key: str) -> Proven | NotTaken | None:
    """The verdict of a note; None where there is none, or one of another form."""
    with contextlib.suppress(TypeError, ValueError, KeyError):
        held: dict[str, Any] = json.loads(cache.read_note(KIND, key) or "null")
        if "nodes" in held:
            nodes = [Wrong(**{**one, "more": tuple(one["more"])}) for one in held["nodes"]]
            return NotTaken(held["engine"], held["model"], nodes)
        arithmetic = _ARITHMETICS[held["arithmetic"]]
        return Proven(arithmetic, held["probes"], held["max_error"], held["bound"], held.get("inner", {}))
    return None


def _write(key: str, held: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a cache that can only be read
        cache.write_note(KIND, key, json.dumps(held))
