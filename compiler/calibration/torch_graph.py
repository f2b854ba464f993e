"""A decoder's semantic graph run in torch, segment by segment: y = f(x; W), weights replaced or with gradients.

    segments:  inputs -> [embed] -> x_0 -> [layers.0] -> x_1 -> ... -> x_L -> [head] -> logits

A segment is a run of nodes between two residual streams: a decoder block, or (`halves`) its attention and its MLP
apart. Values that depend on constants only (DequantizeLinear and Transpose of a weight) belong to no segment: they are
computed when a segment first reads them, and dropped with `Constants`. Of an embedding only the rows that occur in the
text are read. So the weights of one segment and one batch of activations are in memory. Arithmetic is ONNX's, float32.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F

from ..diagnostics.diagnostic import fail
from ..ir.graph_queries import constant_nodes, is_constant
from ..ir.linears import as_linear, as_quantized
from ..ir.module import Module, constant
from ..ir.ops.find_op import definition_of
from ..ir.weights import Rows, Weight
from ..oracle.oracle import causal_mask
from .torch_body import RULES as BODY_RULES
from .torch_body import run_body

_LAYER = re.compile(r"layers\.(\d+)\.(post_attention_layernorm|pre_feedforward_layernorm|post_feedforward|mlp)?")
_BEHIND_ATTENTION = "post_attention_layernorm"  # of the MLP's half, unless another norm begins that half
_APART = 8  # rows of an embedding that are read at once though those between are not asked for
Env = dict[ir.Value, torch.Tensor]


def device() -> torch.device:
    """A GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Segment:
    """Nodes in running order; `reads` is what they take from outside, constants left out."""

    name: str
    nodes: tuple[ir.Node, ...]
    reads: tuple[ir.Value, ...]

    @property
    def outputs(self) -> tuple[ir.Value, ...]:
        """Values read outside this segment, or graph outputs."""
        inside = set(self.nodes)
        return tuple(
            value
            for node in self.nodes
            for value in node.outputs
            if value.is_graph_output() or any(use.node not in inside for use in value.uses())
        )


def segments(graph: ir.Graph, halves: bool = False) -> list[Segment]:
    """The graph cut at the residual stream: `embed`, `layers.0` ..., `head`; each layer in two with `halves`."""
    parts = ("self_attn", "mlp") if halves else ("",)
    place: dict[ir.Node, int] = {}
    last = 0
    constants = constant_nodes(graph)
    live = [node for node in graph if node not in constants]
    sandwich = any((node.name or "").endswith(".pre_feedforward_layernorm") for node in live)
    for node in live:
        found = _LAYER.match(node.name or "")
        before = [place[p] for p in (v.producer() for v in node.inputs if v is not None) if p in place]
        place[node] = max(before, default=0)
        if found:
            second = found[2] and not (sandwich and found[2] == _BEHIND_ATTENTION)
            place[node] = len(parts) * int(found[1]) + (len(parts) if second else 1)
        last = max(last, place[node])
    for node in live:  # what follows a layer and belongs to none is the head
        if place[node] and not _LAYER.match(node.name or ""):
            place[node] = last + 1
    layers = [f"layers.{i}.{part}".rstrip(".") for i in range(last // len(parts)) for part in parts]
    names = ["embed", *layers, "head"]
    return [_stretch(name, [n for n in live if place[n] == i], constants) for i, name in enumerate(names)]


def _stretch(name: str, nodes: Sequence[ir.Node], constants: set[ir.Node]) -> Segment:
    made = {value for node in nodes for value in node.outputs}
    reads = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None and value not in made)
    return Segment(name, tuple(nodes), tuple(v for v in reads if not is_constant(v, constants)))


def plain_inputs(module: Module, ids: np.ndarray, on: torch.device) -> Env:
    """The graph's inputs for windows `ids` [B, S] that start at position 0, with an empty cache."""
    arch, length = module.arch, ids.shape[1]
    if arch is None:
        raise ValueError(f"module `{module.name}` is no decoder")
    made: dict[str, torch.Tensor] = {
        "input_ids": torch.from_numpy(ids.astype(np.int32)),
        "position_ids": torch.arange(length, dtype=torch.int32)[None],
        "attention_mask": torch.from_numpy(causal_mask(length, 0)),
    }
    empty = torch.zeros(1, arch.kv_heads, 0, arch.head_dim)
    return {value: made.get(value.name or "", empty).to(on) for value in module.main.graph.inputs}


@dataclass
class Constants:
    """Constants as tensors, made on first use. `given` holds what stands in for a value, maybe with gradients."""

    given: dict[ir.Value, torch.Tensor | Weight] = field(default_factory=dict)
    on: torch.device = field(default_factory=device)
    _made: Env = field(default_factory=dict)
    _tables: dict[ir.Value, _Rows] = field(default_factory=dict)
    _making: threading.RLock = field(default_factory=threading.RLock)

    def get(self, value: ir.Value) -> torch.Tensor:
        """The value of a constant as a tensor: the one given for it, or computed from the graph and kept."""
        held = self.given.get(value)
        if isinstance(held, torch.Tensor):
            return held
        with self._making:  # batches run on several threads, and one of them makes what all read
            if value not in self._made:
                made, depends = self._make(value)
                if depends:  # on a given tensor: its graph of gradients may be used once only
                    return made
                self._made[value] = made
            return self._made[value]

    def rows(self, table: ir.Value, ids: torch.Tensor) -> torch.Tensor:
        """Rows `ids` [...] of a constant [V, H]; of one that is stored in a file only these are read and kept."""
        if table not in self._tables:
            held, quant = self._held(table), as_quantized(table.producer())
            if isinstance(held, Weight):
                self._tables[table] = _Rows(held.rows, held.dims[0], self.on)
            elif held is None and quant is not None:
                self._tables[table] = _Rows(quant.rows, quant.q.dims[0], self.on)
            else:
                return F.embedding(ids.long(), self.get(table))
        return self._tables[table].get(ids)

    def _held(self, value: ir.Value) -> torch.Tensor | Weight | None:
        return self.given[value] if value in self.given else constant(value)

    def _make(self, value: ir.Value) -> tuple[torch.Tensor, bool]:
        node = value.producer()
        held = self._held(value)
        if isinstance(held, Weight):
            return self.tensor(held), False
        if node is None:
            raise ValueError(f"`{value.name}` is no constant")
        quant = as_quantized(node)
        if quant is not None and not any(v in self.given for v in node.inputs if v is not None):
            return torch.from_numpy(quant.rows(0, quant.q.dims[0])).to(self.on), False
        inputs = [None if v is None else self.get(v) for v in node.inputs]
        depends = any(v is not None and self._given_behind(v) for v in node.inputs)
        return compute(node, inputs)[0], depends

    def _given_behind(self, value: ir.Value) -> bool:
        node = value.producer()
        behind = () if node is None else node.inputs
        return value in self.given or any(v is not None and self._given_behind(v) for v in behind)

    def tensor(self, weight: Weight) -> torch.Tensor:
        """A weight read from its source as a tensor on the device; float16 becomes float32, integers below 8 bits 8."""
        array = weight.numpy()
        if weight.dtype.bitwidth < 8:
            array = array.astype(np.int8 if weight.dtype.is_signed() else np.uint8)
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        own = array.flags.owndata and array.flags.writeable
        return torch.from_numpy(array if own else array.copy()).to(self.on)


class _Rows:
    """Rows of a table [V, H] as float32, read when they are first asked for."""

    def __init__(self, read: Rows, count: int, on: torch.device) -> None:
        self.read, self.on = read, on
        self.place = np.full(count, -1, np.int64)  # of each row in `held`
        self.held: torch.Tensor | None = None

    def get(self, ids: torch.Tensor) -> torch.Tensor:
        asked = ids.cpu().numpy()
        new = np.unique(asked[self.place[asked] < 0])
        if len(new):
            parts = [] if self.held is None else [self.held]
            for run_ in np.split(new, np.flatnonzero(np.diff(new) > _APART) + 1):
                read = self.read(int(run_[0]), int(run_[-1]) + 1)[run_ - run_[0]]
                parts.append(torch.from_numpy(read.astype(np.float32)).to(self.on))
            self.place[new] = np.arange(len(new)) + (0 if self.held is None else len(self.held))
            self.held = torch.cat(parts)
        if self.held is None:
            raise ValueError("no row was asked for")
        return F.embedding(torch.from_numpy(self.place[asked]).to(self.on), self.held)


def run(nodes: Iterable[ir.Node], env: Env, constants: Constants, wanted: Sequence[ir.Value]) -> list[torch.Tensor]:
    """The `wanted` values, from those in `env` (left alone); nothing beyond the last of them is computed."""
    needed = _needed(list(nodes), env, wanted)
    last = {value: node for node in needed for value in node.inputs if value is not None}
    values = dict(env)
    for node in needed:
        for value, made in zip(node.outputs, outputs_of(node, values, constants), strict=False):
            values[value] = made
        for value in node.inputs:
            if value is not None and last[value] is node and value not in wanted:
                values.pop(value, None)
    return [values[value] for value in wanted]


def all_values(nodes: Iterable[ir.Node], env: Env, constants: Constants) -> Env:
    """`env` with what every node makes."""
    values = dict(env)
    for node in nodes:
        values.update(zip(node.outputs, outputs_of(node, values, constants), strict=False))
    return values


def _needed(nodes: list[ir.Node], env: Env, wanted: Sequence[ir.Value]) -> list[ir.Node]:
    open_ = {value for value in wanted if value not in env}
    kept = []
    for node in reversed(nodes):
        if open_.intersection(node.outputs):
            kept.append(node)
            open_.difference_update(node.outputs)
            open_.update(v for v in node.inputs if v is not None and v not in env)
    return kept[::-1]


def outputs_of(node: ir.Node, values: Env, constants: Constants) -> tuple[torch.Tensor, ...]:
    """One node on what is in `values`, else on constants."""
    table = node.inputs[0] if node.op_type == "Gather" else None
    if table is not None and table not in values and node.inputs[1] in values:
        return (constants.rows(table, values[node.inputs[1]]),)
    return compute(node, [None if v is None else values[v] if v in values else constants.get(v) for v in node.inputs])


def compute(node: ir.Node, inputs: list[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
    """One node on tensors; an own op by its body."""
    definition = definition_of(node)
    if definition is not None:
        return run_body(definition, node, inputs, compute)
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if rule is None:
        fail(
            "E0470",
            f"`{node.name}` is a {node.op_type}, which calibration cannot run",
            help="use a method that needs no calibration (rtn, mse or hqq), or calibrate before the pass that made it",
        )
    made = rule(node, cast(Inputs, inputs))  # an optional input that is absent is None; rules that have one look
    return made if isinstance(made, tuple) else (made,)


Inputs = list[torch.Tensor]
TorchOp = Callable[[ir.Node, Inputs], "torch.Tensor | tuple[torch.Tensor, ...]"]


def _ints(node: ir.Node, name: str) -> list[int]:
    return list(node.attributes[name].as_ints())


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def _rms_norm(node: ir.Node, x: Inputs) -> torch.Tensor:
    spread = x[0].pow(2).mean(-1, keepdim=True)
    return x[0] * torch.rsqrt(spread + _number(node, "epsilon", 1e-5)) * x[1]


def _reshape(node: ir.Node, x: Inputs) -> torch.Tensor:
    shape = [x[0].shape[i] if size == 0 else size for i, size in enumerate(x[1].tolist())]
    return x[0].reshape(shape)


def _rotary(node: ir.Node, x: Inputs) -> torch.Tensor:
    """x [B,heads,S,D], cos and sin [B,S,D/2]; channel i is rotated with channel i + D/2."""
    cos, sin = x[1].unsqueeze(1), x[2].unsqueeze(1)
    first, second = x[0].chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _attention(node: ir.Node, x: Inputs) -> torch.Tensor:
    """softmax(q [K_past, k]^T * scale + mask) [V_past, v]; the present K/V, which nobody reads, are left out."""
    q, k, v, mask = x[:4]
    if len(x) > 5 and x[4].shape[2]:
        k, v = torch.cat([x[4], k], dim=2), torch.cat([x[5], v], dim=2)
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
    scale = _number(node, "scale", q.shape[-1] ** -0.5)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _gather(node: ir.Node, x: Inputs) -> torch.Tensor:
    axis = int(_number(node, "axis", 0))
    return F.embedding(x[1].long(), x[0]) if axis == 0 else x[0].index_select(axis, x[1].long().flatten())


def _dequantize(node: ir.Node, x: Inputs) -> torch.Tensor:
    """(q - zero_point) * scale, a scale per block of `block_size` inputs or per row."""
    block = int(_number(node, "block_size", 0)) or x[0].shape[1]
    groups = x[0].float().reshape(x[0].shape[0], -1, block)
    scale = x[1].reshape(len(groups), -1, 1)
    if len(x) > 2:
        groups = groups - x[2].float().reshape(scale.shape)
    return (groups * scale).reshape(x[0].shape)


def _slice(x: Inputs) -> torch.Tensor:
    """Along the axes of its fourth input, or the first ones, in steps of one."""
    starts, ends = x[1].tolist(), x[2].tolist()
    axes = x[3].tolist() if len(x) > 3 else range(len(starts))
    made = x[0]
    for axis, start, end in zip(axes, starts, ends, strict=True):
        made = made.narrow(axis, start, min(end, made.shape[axis]) - start)
    return made


def _shape(node: ir.Node, x: Inputs) -> torch.Tensor:
    end = node.attributes["end"].as_int() if "end" in node.attributes else None
    return torch.tensor(x[0].shape[int(_number(node, "start", 0)) : end])


def _gelu(node: ir.Node, x: Inputs) -> torch.Tensor:
    how = node.attributes.get("approximate")
    return F.gelu(x[0], approximate="none" if how is None else how.as_string())


def _reduce_max(node: ir.Node, x: Inputs) -> torch.Tensor:
    """Over the axes of its second input."""
    return torch.amax(x[0], tuple(x[1].tolist()), keepdim=bool(_number(node, "keepdims", 1)))


def _top_k(node: ir.Node, x: Inputs) -> tuple[torch.Tensor, ...]:
    values, places = torch.topk(x[0], int(x[1].item()), int(_number(node, "axis", -1)))
    return values, places


_RULES: Mapping[str, TorchOp] = {
    **BODY_RULES,
    "Abs": lambda node, x: torch.abs(x[0]),
    "Add": lambda node, x: x[0] + x[1],
    "Attention": _attention,
    "Cast": lambda node, x: x[0].to(_torch_type(int(_number(node, "to", 1)))),
    "Clip": lambda node, x: torch.clamp(x[0], x[1], x[2]),
    "Cos": lambda node, x: torch.cos(x[0]),
    "DequantizeLinear": _dequantize,
    "Gather": _gather,
    "Gelu": _gelu,
    "Identity": lambda node, x: x[0],
    "MatMul": lambda node, x: x[0] @ x[1],
    "Mul": lambda node, x: x[0] * x[1],
    "RMSNormalization": _rms_norm,
    "ReduceMax": _reduce_max,
    "Reshape": _reshape,
    "RotaryEmbedding": _rotary,
    "Shape": _shape,
    "Sin": lambda node, x: torch.sin(x[0]),
    "Slice": lambda node, x: _slice(x),
    "Swish": lambda node, x: F.silu(x[0] * _number(node, "alpha", 1.0)) / _number(node, "alpha", 1.0),
    "TopK": _top_k,
    "Transpose": lambda node, x: x[0].permute(_ints(node, "perm")),
    "Unsqueeze": lambda node, x: _unsqueeze(x),
}


def _unsqueeze(x: Inputs) -> torch.Tensor:
    made = x[0]
    for axis in sorted(x[1].tolist()):
        made = made.unsqueeze(axis)
    return made


def _torch_type(code: int) -> torch.dtype:
    return {1: torch.float32, 2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 10: torch.float16}[code]


def linear_nodes(segment: Segment) -> list[ir.Node]:
    """The segment's linears that multiply by a constant weight."""
    return [n for n in segment.nodes if (found := as_linear(n)) is not None and found.kind == "matmul"]
