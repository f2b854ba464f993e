"""The work of a deployed model, from the graphs of its parts; dry weights are enough, none is read.

parts -> bytes, multiplications, layers of attention of each
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ..emit.part import Part
from ..estimate.work import CACHE_BYTES, ModelWork, PartWork
from ..ir import kv_names
from ..ir.active_channels import share
from ..ir.linears import as_linear
from ..registry import part_target

if TYPE_CHECKING:
    from ..ir.module import Module
    from ..plan.plan import Deploy


_BESIDE = 2.0  # bytes of a float in a part beside an NPU, which computes with 16 bits


def buckets_of(module: Module) -> list[tuple[int, int]]:
    """(tokens, context) of each static graph."""
    from ..ir.module import BucketShape

    shapes = [BucketShape.of(name) for name in module.graphs]
    return [(shape.tokens, shape.context) for shape in shapes if shape is not None]


def model_work(module: Module, parts: list[Part], deploy: Deploy) -> ModelWork:
    """The work of a module that was cut into `parts`."""
    made = tuple(_part_work(module, part, deploy) for part in parts)
    return ModelWork(module.name, made, module.context)


def _part_work(module: Module, part: Part, deploy: Deploy) -> PartWork:
    arch, graph = module.arch, next(iter(part.graphs.values())).graph
    target = part_target(deploy.target, part.device)
    floats = target.float_bytes if target.name == deploy.target else _BESIDE
    linears = [linear for node in graph if (linear := as_linear(node)) is not None]
    whole = [linear for linear in linears if linear.kind != "gather"]
    weights = {id(linear.initializer): linear.stored_bytes(floats) for linear in whole}
    tables = [one for one in linears if one.kind == "gather"]
    apart = {id(one.initializer): one.stored_bytes(floats) for one in tables if id(one.initializer) not in weights}
    layers = 0 if arch is None else _attention_layers(part, arch.layers)
    return PartWork(
        part.name,
        part.device,
        weights=sum(weights.values()),
        macs=float(sum(prod(linear.shape) for linear in whole)),
        layers=layers,
        kv_width=0 if arch is None else arch.kv_heads * arch.head_dim,
        heads_width=0 if arch is None else arch.heads * arch.head_dim,
        cache_bytes=CACHE_BYTES.get(deploy.kv, floats),
        idle=sum((1 - share(linear)) * linear.stored_bytes(floats) for linear in whole),
        row=sum(one.stored_bytes(floats) / one.shape[0] for one in tables),
        tables=sum(apart.values()),
    )


def _attention_layers(part: Part, layers: int) -> int:
    """Layers whose cache the part reads; half a layer counts as one."""
    held = [value for value in next(iter(part.graphs.values())).graph.inputs if kv_names.is_cache(value.name or "")]
    return min(layers, (len(held) + 1) // 2)
