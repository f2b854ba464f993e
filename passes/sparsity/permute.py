"""Put inputs in an order in which a pattern costs less, where it can be folded into the weights around them.

    y = x W^T = (x P)(W P)^T        x P: the rows of what makes x in the order of P; outputs do not change

    MLP        rows of gate and up               ->  columns of down
    values     rows of v, within each K/V head   ->  columns of o, in each head that reads it
    hidden     columns of the embedding, rows of o and down, gains of the norms  ->  columns of q, k, v, gate, up, head

What is kept of a weight is fixed by which inputs stand in one group (and which in one pair). PermLLM (arXiv 2510.10136)
learns the order; here channels of two groups are exchanged wherever that keeps more of  sum w_k^2 E x_k^2  (Pool and Yu
2021, "Channel permutations for N:M sparsity"), in all pairs of groups of a random matching at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...compiler.calibration.torch_graph import run
from ...compiler.files import cache
from ...compiler.ir.annotations import JOINED
from ...compiler.ir.fold_into_weights import bias_of, own_gain, permute_columns, permute_rows, set_weight
from ...compiler.ir.linears import Linear, linears
from ...compiler.ir.module import Module, constant
from ...compiler.ir.sparse_pattern import Sparsity
from ...compiler.ir.sparsity import SPARSITY
from ...compiler.ir.weights import Weight
from ...compiler.pipeline.pass_interface import Scope
from ..solve import solution_cache as store
from ..solve.residual_streams import BATCH, ResidualStreams
from .units import in_units

_WINDOWS = 2 * BATCH  # of the calibration, on which inputs are measured
_ROUNDS = 200
_TRIED = 16  # exchanges of two groups that are tried in a round
_ROWS = 256  # outputs that stand for all
_NUMBERS = 1 << 23  # of exchanged scores at a time


@dataclass(frozen=True)
class Site:
    """Inputs that can be put in another order: who reads them, whose rows or columns follow.

    `heads`: within how many runs of equal length; `repeat`: readers' runs that follow each of them.
    """

    name: str
    readers: tuple[str, ...]
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()  # embeddings and heads beside the readers
    gains: tuple[str, ...] = ()  # norms
    heads: int = 1
    repeat: int = 1


def sites(module: Module) -> list[Site]:
    """All places of a decoder, from the inside to the hidden states."""
    arch, names = module.arch, [linear.name for linear in linears(module)]
    if arch is None or any(linear.stored is not None and JOINED.get(linear.stored) for linear in linears(module)):
        return []  # the rows of joined linears move together

    def ending(*ends: str) -> tuple[str, ...]:
        return tuple(name for name in names if name.endswith(ends))

    found = []
    for down in ending(".down_proj"):
        layer = down.removesuffix("down_proj")
        found.append(Site(down, (down,), tuple(n for n in names if n in (f"{layer}gate_proj", f"{layer}up_proj"))))
    for out in ending(".o_proj"):
        made_by = (out.removesuffix("o_proj") + "v_proj",)
        found.append(Site(out, (out,), made_by, heads=arch.kv_heads, repeat=arch.heads // arch.kv_heads))
    if not arch.sandwich_norms:
        readers = ending(".q_proj", ".k_proj", ".v_proj", ".gate_proj", ".up_proj")
        ends = tuple(name for name in names if name in ("embed_tokens", "lm_head"))
        gains = tuple(
            node.name or ""
            for node in module.nodes("RMSNormalization")
            if all(use.node.name in names for use in node.outputs[0].uses())
        )
        found.append(Site("hidden states", readers, ending(".o_proj", ".down_proj"), ends, gains))
    return found


def permute(
    module: Module, wanted: Mapping[str, Weight], sparsity: Sparsity, ids: np.ndarray, state: str, scope: Scope
) -> int:
    """Put the inputs of `wanted` in better orders; how many weights moved. `state` is the key of the windows."""
    held = {linear.name: linear for linear in linears(module)}
    chosen = [site for site in sites(module) if _movable(site, held, wanted, sparsity, scope)]
    parts = [f"{name}:{store.digest(weight)}" for name, weight in wanted.items()]
    key = store.key("permute 1", state, str(sparsity), *(site.name for site in chosen), *parts)

    def build(folder: Path) -> None:
        energies = _energies(ResidualStreams(module, wanted, halves=True), ids[:_WINDOWS])
        made = {site.name: _order(site, wanted, energies, sparsity) for site in chosen}
        listed = {name: [order.tolist(), before, after] for name, (order, before, after) in made.items()}
        (folder / "orders.json").write_text(json.dumps(listed))

    found = json.loads((cache.make("sparse", key, build) / "orders.json").read_text())
    moved = sum(_apply(module, site, np.array(found[site.name][0])) for site in chosen)
    if chosen:
        before, after = np.mean([found[site.name][1:] for site in chosen], axis=0)
        scope.note(
            f"inputs permuted in {len(chosen)} places: groups keep {after:.2%} of their importance, before {before:.2%}"
        )
    return moved


def _movable(
    site: Site, held: Mapping[str, Linear], wanted: Mapping[str, Weight], sparsity: Sparsity, scope: Scope
) -> bool:
    """Whether somebody gains and all that has to follow is float and has no pattern of its own."""
    if not any(name in wanted for name in site.readers):
        return False
    for name in (*site.readers, *site.rows, *site.columns):
        linear = held.get(name)
        if linear is None or linear.stored is None or not linear.rows_are_outputs or SPARSITY.get(linear.stored):
            scope.note(f"the inputs of {site.name} stay in their order: `{name}` cannot follow")
            return False
    length = held[site.readers[0]].shape[1] // (site.heads * site.repeat)
    return length % sparsity.group == 0 and length > sparsity.group


def _energies(flow: ResidualStreams, ids: np.ndarray) -> dict[str, torch.Tensor]:
    """Linear -> mean x_k^2 of its inputs [K] in the dense model."""
    flow.start(ids, {})
    found: dict[str, torch.Tensor] = {}
    for segment in flow.segments[1:]:
        groups, constants = flow.groups(segment), flow.constants({})
        values = [value for value, _ in groups]
        for x in flow.reference if groups else ():
            with torch.no_grad():
                made = run(segment.nodes, flow.env(x), constants, values)
            for (_, names), y in zip(groups, made, strict=True):
                own = y.flatten(0, -2).square().mean(0)
                found.update({name: found.get(name, 0) + own for name in names})
        flow.advance(segment, {})
    return found


def _order(
    site: Site, wanted: Mapping[str, Weight], energies: Mapping[str, torch.Tensor], sparsity: Sparsity
) -> tuple[np.ndarray, float, float]:
    """The order of the site's inputs, one run after the other, and the share that is kept before and after."""
    readers = [name for name in site.readers if name in wanted]
    scores = []
    for name in readers:
        weight = wanted[name]
        picked = np.linspace(0, weight.dims[0] - 1, min(weight.dims[0], max(16, _ROWS // len(readers)))).astype(int)
        rows = np.concatenate([weight.rows(row, row + 1) for row in picked]).astype(np.float32)
        score = torch.from_numpy(rows).square() * energies[name].cpu()
        scores.append(score / score.sum())
    whole = torch.cat(scores)
    runs = whole.reshape(len(whole), site.heads, site.repeat, -1)
    orders, before, after = [], 0.0, 0.0
    for head in range(site.heads):
        score = runs[:, head].flatten(0, 1)
        order = search(score, sparsity)
        orders.append(order.numpy() + head * len(order))
        before += float(kept(score, sparsity).sum())
        after += float(kept(score[:, order], sparsity).sum())
    return np.concatenate(orders), before / len(readers), after / len(readers)


def kept(score: torch.Tensor, sparsity: Sparsity) -> torch.Tensor:
    """What the best units of each group keep of `score` [..., K], summed over the first axis: [..., K / group]."""
    shape = score.shape
    units = in_units(score.reshape(-1, shape[-1]), sparsity).sum(-1)
    best = units.sort(-1, descending=True).values[..., : sparsity.keep].sum(-1)
    return best.reshape(*shape[:-1], -1).sum(0)


def search(score: torch.Tensor, sparsity: Sparsity) -> torch.Tensor:
    """An order [K] of the columns of `score` [N, K] in which groups keep more than in the one they have."""
    size, count = sparsity.group, score.shape[1] // sparsity.group
    chance = torch.Generator().manual_seed(0)
    order = torch.arange(score.shape[1])
    exchanges = [(i, size + j) for i in range(size) for j in range(size)]
    for _ in range(_ROUNDS):
        matching = torch.randperm(count, generator=chance)[: count - count % 2].reshape(-1, 2)
        places = (matching[..., None] * size + torch.arange(size)).flatten(1)  # [pairs, 2 size]
        tried = torch.randperm(len(exchanges), generator=chance)[:_TRIED].tolist()
        arrangements = torch.arange(2 * size).repeat(len(tried) + 1, 1)  # the first as it is
        for row, number in enumerate(tried, start=1):
            i, j = exchanges[number]
            arrangements[row, i], arrangements[row, j] = j, i
        step = max(1, _NUMBERS // (len(score) * arrangements.numel()))
        for some in places.split(step):
            local = score[:, order[some]][:, :, arrangements]  # [N, pairs, tried, 2 size]
            totals = kept(local, sparsity).sum(-1)  # [pairs, tried]
            best = totals.argmax(-1)
            order[some] = order[some].gather(1, arrangements[best])
    return order


def _apply(module: Module, site: Site, order: np.ndarray) -> int:
    """Let the weights around the site follow `order`; how many did."""
    held = {linear.name: linear for linear in linears(module)}
    length = len(order) // site.heads
    inner = order.reshape(site.heads, 1, length) % length  # of each run
    runs = np.arange(site.heads * site.repeat).reshape(site.heads, site.repeat, 1) * length
    wide = (runs + inner).reshape(-1)  # of the readers' inputs
    changed: dict[int, None] = {}
    for names, turn, places in (
        (site.rows, permute_rows, order),
        ((*site.readers, *site.columns), permute_columns, wide),
    ):
        for name in names:
            _follow(held[name], turn, places, changed)
    for name in site.gains:
        node = module.node(name)
        gain = None if node is None else own_gain(module, node)
        weight = constant(gain)
        if gain is not None and weight is not None:
            set_weight(gain, permute_rows(weight, order))
    return len({*site.readers, *site.rows, *site.columns})


def _follow(
    linear: Linear,
    turn: Callable[[Weight, np.ndarray], Weight],
    order: Sequence[int] | np.ndarray,
    done: dict[int, None],
) -> None:
    places = np.asarray(order)
    if linear.stored is None:
        raise ValueError(f"`{linear.name}` has no float weight")
    if turn is permute_columns and id(linear.value) in done:  # tied: both see the same columns
        return
    if turn is permute_columns:
        done[id(linear.value)] = None
    set_weight(linear.value, turn(linear.stored, places))
    bias = bias_of(linear) if turn is permute_rows else None
    held = constant(bias)
    if bias is not None and held is not None:
        set_weight(bias, permute_rows(held, places))
