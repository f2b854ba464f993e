"""The graph side of `rotate`: which weights turn, in which order, and the orthogonal matrices themselves.

residual stream:  written by the embedding, o_proj, down_proj
                  read by norms, and behind them by q, k, v, gate, up, head
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ...compiler.diagnostics.diagnostic import fail
from ...compiler.ir.annotations import JOINED, ROTATED
from ...compiler.ir.fold_into_weights import (
    bias_of,
    own_gain,
    rotate_columns,
    rotate_rows,
    scale_columns,
    set_weight,
    untie,
)
from ...compiler.ir.linears import Linear, linears
from ...compiler.ir.module import Module, constant
from ...compiler.ir.weights import Weight, from_array, numbers
from ...compiler.pipeline.pass_interface import Scope

_WRITERS = (".o_proj", ".down_proj")
_CORES = (1, 12, 20)


Hidden = Callable[[int], np.ndarray | None]  # size -> the rotation R of hidden states; None: they stay


def rotate(module: Module, residual: Hidden | None, values: bool, seed: int, scope: Scope, gains: bool = False) -> int:
    """Turn what is asked for, hidden states by what `residual` gives; the number of weights turned.

    With `gains` norms keep gains, and the columns behind them the size they had; else all gains become one.
    """
    arch = module.arch
    if arch is None:
        fail("E0460", f"`{module.name}` is no decoder that edgec built: its residual stream is not known", scope.origin)
    changes, done = 0, ROTATED.get(module.main) or ()
    if residual is not None and arch.sandwich_norms:
        message = (
            f"`{module.name}` has norms behind attention and MLP, whose gains no rotation of its hidden states passes"
        )
        fail("E0462", message, scope.origin, help="rotate the values alone: `rotate (residual = false)`")
    if residual is not None and "residual" not in done and (r := residual(arch.hidden)) is not None:
        changes += _turn_residual(module, r, gains, scope)
        done = (*done, "residual")
    if values and "values" not in done:
        _demand_v(module, scope)
        changes += _turn_values(module, orthogonal(arch.head_dim, seed + 1))
        done = (*done, "values")
    ROTATED.set(module.main, done)
    return changes


def _turn_residual(module: Module, r: np.ndarray, keep_gains: bool, scope: Scope) -> int:
    for name in [linear.name for linear in linears(module)]:
        _own(module, name, scope)
    found = {linear.name: linear for linear in linears(module)}
    readers = _behind_norms(module, found)
    changes = 0
    for linear in found.values():
        if linear.kind == "gather":
            _exchange(linear, lambda w: rotate_columns(w, r, "rotated"), None)
        elif linear.name in readers:
            gain = readers[linear.name]
            left = _left(gain, r) if keep_gains else None
            _exchange(linear, lambda w, g=gain, after=left: _through_norm(w, g, r, after), None)
        elif linear.name.endswith(_WRITERS):
            _exchange(linear, lambda w: rotate_rows(w, r, "rotated"), lambda b: rotate_rows(b, r, "rotated"))
        else:
            raise ValueError(f"`{linear.name}` neither reads nor writes the residual stream")
        changes += 1
    for node in list(module.nodes("RMSNormalization")):
        if _is_residual_norm(node, found):
            gain = own_gain(module, node)
            held = _array(gain).astype(np.float32)
            left = _left(held, r) if keep_gains else np.ones(held.shape, np.float32)
            set_weight(gain, from_array(gain.name or "", left, "gains behind a rotation"))
    return changes


def _through_norm(w: Weight, gain: np.ndarray, r: np.ndarray, left: np.ndarray | None) -> Weight:
    """W g R, divided by the gains that the norm is left with."""
    made = rotate_columns(scale_columns(w, gain, "gain"), r, "rotated")
    return made if left is None else scale_columns(made, 1 / left, "gain")


def _left(gain: np.ndarray, r: np.ndarray) -> np.ndarray:
    """sqrt(sum_i R_ik^2 g_i^2) [H]: with these a column of W g R / g' is as large as one of W."""
    made = np.sqrt(np.square(r).T @ np.square(gain.astype(np.float64)))
    return np.where(made > 1e-6 * made.max(), made, 1.0).astype(np.float32)


def _behind_norms(module: Module, found: dict[str, Linear]) -> dict[str, np.ndarray]:
    """Linear -> gain of the norm of the residual stream that it reads."""
    gains = {}
    for node in module.nodes("RMSNormalization"):
        if _is_residual_norm(node, found):
            for use in node.outputs[0].uses():
                gains[use.node.name or ""] = _array(node.inputs[1]).astype(np.float32)
    return gains


def _is_residual_norm(node: ir.Node, found: dict[str, Linear]) -> bool:
    """Norms whose readers are linears; those of a head's q and k are not."""
    return all(use.node.name in found for use in node.outputs[0].uses())


def _demand_v(module: Module, scope: Scope) -> None:
    """E0464 where v_proj is a part of another linear: only its rows would turn."""
    for linear in linears(module):
        rows = JOINED.get(linear.stored) if linear.stored is not None else None
        if rows is not None and any(name.endswith(".v_proj") for name, _ in rows):
            fail(
                "E0464",
                f"`{linear.name}` holds the rows of `v_proj` and of others: its values cannot be rotated alone",
                scope.origin,
                help="put `rotate` in front of `fuse`, or write `rotate (values = false)`",
            )


def _turn_values(module: Module, r: np.ndarray) -> int:
    changes = 0
    for linear in list(linears(module)):
        if linear.name.endswith(".v_proj"):
            _exchange(linear, lambda w: rotate_rows(w, r, "rotated"), lambda b: rotate_rows(b, r, "rotated"))
        elif linear.name.endswith(".o_proj"):
            _exchange(linear, lambda w: rotate_columns(w, r, "rotated"), None)
        else:
            continue
        changes += 1
    return changes


Turn = Callable[[Weight], Weight]


def _exchange(linear: Linear, turn: Turn, turn_bias: Turn | None) -> None:
    if linear.stored is None or not linear.rows_are_outputs:
        raise ValueError(f"`{linear.name}` is not a float weight [N, K]")
    set_weight(linear.value, turn(linear.stored))
    bias = bias_of(linear)
    held = constant(bias)
    if turn_bias is not None and bias is not None and held is not None:
        set_weight(bias, turn_bias(held))


def _own(module: Module, name: str, scope: Scope) -> None:
    linear = next(x for x in linears(module) if x.name == name)
    before = linear.value
    after = untie(module, linear)
    if after.value is not before and after.stored is not None:
        size = after.stored.nbytes / 2**20
        scope.note(f"`{name}` no longer shares its weight: {size:.2f} MiB more in float32")


def _array(value: ir.Value | None) -> np.ndarray:
    held = constant(value)
    if held is None:
        raise ValueError("a norm without a constant gain")
    return numbers(held)


def orthogonal(size: int, seed: int) -> np.ndarray:
    """An orthogonal [size, size], float64: a Hadamard matrix with random signs where there is one.

    Other sizes are an odd number times a power of two: Hartley's matrix of the first, doubled as Hadamard's are, so
    that no number is above sqrt(2 / size).
    """
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size)
    core = next((m for m in _CORES if size % m == 0 and _is_power_of_two(size // m)), None)
    odd = size // (size & -size)
    made = hartley(odd, odd) if core is None else _core(core)
    while len(made) < size:
        made = np.block([[made, made], [made, -made]])
    return signs[:, None] * made / np.sqrt(size)


def hartley(count: int, size: int) -> np.ndarray:
    """Rows i < `count` of Hartley's matrix, cos a + sin a with a = 2 pi i k / size: orthogonal, of equal length."""
    angles = 2 * np.pi / size * np.outer(np.arange(count), np.arange(size))
    return np.cos(angles) + np.sin(angles)


def _is_power_of_two(n: int) -> bool:
    return n & (n - 1) == 0


def _core(order: int) -> np.ndarray:
    """Paley's Hadamard matrix of order q + 1, q a prime of the form 4n + 3."""
    if order == 1:
        return np.ones((1, 1))
    q = order - 1
    squares = {x * x % q for x in range(1, q)}
    chi = [0 if x == 0 else 1 if x in squares else -1 for x in range(q)]
    skew = np.zeros((order, order))
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = [[chi[(i - j) % q] for j in range(q)] for i in range(q)]
    return skew + np.eye(order)
