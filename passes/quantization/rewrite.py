"""The graph side of `quantize`: which weights are taken, and how a DequantizeLinear is put before their uses.

embedding     Gather(W, ids)                      ->  Gather(DequantizeLinear(q, scale), ids)
linear        MatMul(x, Transpose(W[N,K]))        ->  MatMul(x, Transpose(DequantizeLinear(q[N,K], scale)))
              MatMul(x, W[K,N])                   ->  the same: integers are always stored as [N, K]
Gemm, Conv    op(x, W, b)                         ->  op(x, DequantizeLinear(q, scale), b), Gemm with transB = 1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from ...compiler.diagnostics.diagnostic import PlanError
from ...compiler.ir.annotations import FLOAT_WEIGHT, FORMAT
from ...compiler.ir.linears import FLOATS, Linear, is_dequantize_blocks, linears
from ...compiler.ir.module import Module, drop_unused_initializers
from ...compiler.ir.sparsity import SPARSITY
from ...compiler.ir.stored_integers import stored_integers
from ...compiler.ir.weight_format import WeightFormat
from ...compiler.ir.weights import Weight, as_weight, transpose
from ...compiler.pipeline.demands import Demands
from ...compiler.pipeline.pass_interface import Scope
from .blocks import BLOCKS, indivisible
from .round_to_nearest import QuantizedTensors, make

# float weights [N, K] by linear -> their integers
Solver = Callable[[Mapping[str, Weight]], dict[str, QuantizedTensors]]
Formats = Callable[[str], WeightFormat | None]  # by the name of the linear; None: it is left alone


def quantize_graph(
    graph: ir.Graph, module: Module, formats: Formats, scope: Scope, solver: Solver | None = None
) -> int:
    """Quantise the selected weights of `graph` (by rounding without a `solver`); the number of uses that changed."""
    dequantized = _DequantizedValues(module.main, formats, scope)
    if solver is not None:
        dequantized.solved = solver(_to_solve(list(linears(module, graph)), dequantized))
    found = list(linears(module, graph))  # a solver may have scaled float weights
    before = {linear.name: _current_format(linear) for linear in found}
    for linear in found:
        if linear.quant is not None and linear.kind != "own" and _current_format(linear).source is not None:
            dequantized.put(linear)
    changes = 0
    for linear in found:
        if scope.selects(linear.name):
            changes += _quantize(linear, module, dequantized)
    drop_unused_initializers(graph)
    dequantized.register()
    if changes:
        graph.sort()  # a shared DequantizeLinear has to come before its first reader
        after = {x.name: x for x in linears(module, graph)}
        _note_untied(found, before, after, scope)
        _note_rounded_again(before, after, scope)
    return changes


@dataclass(frozen=True)
class _State:
    """What a use reads: the float weight behind it and the format it has now (None: float)."""

    source: Weight | None
    format_: WeightFormat | None


def _current_format(linear: Linear) -> _State:
    if linear.quant is not None:
        source = FLOAT_WEIGHT.get(linear.quant.q)
        return _State(None if source is None else as_weight(source), FORMAT.get(linear.quant.q))
    held = linear.value.const_value
    if held is not None and not isinstance(held, Weight):
        linear.value.const_value = as_weight(held)  # one object per tensor, so that ties can be seen
    return _State(linear.stored if held is None else as_weight(linear.value.const_value or held), None)


def measurable(module: Module, format_: WeightFormat, scope: Scope) -> dict[str, Weight]:
    """The candidates whose inputs are activations: mixed precision cannot measure an embedding's."""
    graph = module.main.graph
    looked_up = {linear.name for linear in linears(module, graph) if linear.kind == "gather"}
    found = candidates(graph, module, format_, scope)
    return {name: weight for name, weight in found.items() if name not in looked_up}


def candidates(graph: ir.Graph, module: Module, format_: WeightFormat, scope: Scope) -> dict[str, Weight]:
    """Linear -> float weight [N, K] of all that the step selects and that can take a format like `format_`."""
    dequantized, wanted = _DequantizedValues(module.main, lambda _name: format_, scope), {}
    for linear in linears(module, graph):
        source = _current_format(linear).source
        if scope.selects(linear.name) and _refusal(linear, format_) is None and source is not None:
            _check_format(linear, format_, scope)
            wanted[linear.name] = dequantized.orient(linear, source)
    return wanted


def _to_solve(found: list[Linear], dequantized: _DequantizedValues) -> dict[str, Weight]:
    """Linear -> float weight [N, K] of all that are about to get a new format."""
    wanted = {}
    for linear in found:
        state = _current_format(linear)
        if not dequantized.scope.selects(linear.name):
            continue
        format_ = dequantized.formats(linear.name)
        if format_ is None or state.source is None or state.format_ == format_:
            continue
        if _refusal(linear, format_) is None:
            _check_format(linear, format_, dequantized.scope)
            wanted[linear.name] = dequantized.orient(linear, state.source)
    return wanted


def _refusal(linear: Linear, format_: WeightFormat) -> str | None:
    """Why the weight of `linear` is left alone."""
    if linear.kind == "own":
        return f"it is a {linear.node.op_type}, whose weight is in the form that op wants"
    source = _current_format(linear).source
    if linear.kind == "conv" and format_.block is not None:
        return "a convolution is quantised per channel only: `block = channel`"
    if source is None:
        return "its weight is quantised in the source model already"
    if source.dtype not in FLOATS:
        return f"its weight is {source.dtype.name.lower()}, not float32 or float16"
    return None


def _check_format(linear: Linear, format_: WeightFormat, scope: Scope) -> None:
    if format_.block is not None and linear.shape[1] % format_.block:
        raise PlanError(indivisible(format_.block, {linear.name: linear.shape[1]}, scope.origin))
    source = _current_format(linear).source
    pattern = None if source is None else SPARSITY.get(source)
    sparse = {} if pattern is None else {linear.name: str(pattern)}
    if problem := Demands(weights=(format_,)).without_zeros(sparse, scope.origin):
        raise PlanError(problem)


def _quantize(linear: Linear, module: Module, dequantized: _DequantizedValues) -> int:
    scope, format_, state = dequantized.scope, dequantized.formats(linear.name), _current_format(linear)
    if format_ is None:
        scope.note(f"`{linear.name}` keeps its type: `weights = auto` measures linears, and an embedding is none")
        return scope.skip(linear.node, "it is looked up: `weights = auto` measures linears only")
    if (why := _refusal(linear, format_)) is not None or state.source is None:
        return scope.skip(linear.node, why or "it has no float weight")
    _check_format(linear, format_, scope)
    module.decisions[linear.name] = str(scope.origin) if scope.origin else "quantize"
    if state.format_ == format_:
        return False
    _connect(linear, dequantized.get(linear, state.source, format_))
    return True


@dataclass
class _DequantizedValues:
    """Dequantised values of a graph by float weight and format, so that uses of one weight in one format share them."""

    model: ir.Model
    formats: Formats
    scope: Scope
    values: dict[tuple[int, WeightFormat], ir.Value] = field(default_factory=dict)
    fresh: list[tuple[str, ir.Node]] = field(default_factory=list)
    oriented: dict[int, Weight] = field(default_factory=dict)
    solved: dict[str, QuantizedTensors] = field(default_factory=dict)

    @property
    def graph(self) -> ir.Graph:
        """The graph that is rewritten."""
        return self.model.graph

    def put(self, linear: Linear) -> None:
        state = _current_format(linear)
        if state.source is not None and state.format_ is not None:
            self.values[id(state.source), state.format_] = linear.value

    def orient(self, linear: Linear, source: Weight) -> Weight:
        """`source` as [N, K], one object for all its uses."""
        if linear.quant is not None or linear.rows_are_outputs:
            return source
        return self.oriented.setdefault(id(source), transpose(source))

    def get(self, linear: Linear, source: Weight, format_: WeightFormat) -> ir.Value:
        source = self.orient(linear, source)
        key = (id(source), format_)
        if key not in self.values:
            self.values[key] = self._build(linear, source, format_)
        return self.values[key]

    def _build(self, linear: Linear, source: Weight, format_: WeightFormat) -> ir.Value:
        made = self.solved.get(linear.name)
        if made is None:
            made = make(f"{linear.name}.weight", source, format_, self.scope.origin)
        node = _node(made, format_.block, f"{linear.name}.dequant", self.model)
        output = node.outputs[0]
        output.shape, output.type = ir.Shape(source.dims), ir.TensorType(made.scale.dtype)
        self.graph.insert_before(_first_reader(linear), node)
        self.fresh.append((f"{linear.name}.weight", node))
        return output

    def register(self) -> None:
        """Name the new tensors once those they replace are gone."""
        for base, node in self.fresh:
            taken = self.graph.initializers
            while f"{base}.q" in taken:
                base += "_"
            node.outputs[0].name = f"{base}.dequantised"
            last = "minimum" if is_dequantize_blocks(node) else "zero_point"
            for value, part in zip(node.inputs, ("q", "scale", last), strict=False):
                if value is None or value.const_value is None:
                    raise ValueError(f"`{base}` has no {part}")
                value.name = value.const_value.name = f"{base}.{part}"
                self.graph.register_initializer(value)


def _node(made: QuantizedTensors, block: int | None, name: str, model: ir.Model) -> ir.Node:
    inputs = _inputs(made)
    if made.minimum is None:
        attributes = {"axis": 1, "block_size": block} if block else {"axis": 0}
        return ir.node("DequantizeLinear", inputs, attributes, name=name)
    from ...compiler.ir.ops.dequantize_blocks import DequantizeBlocks

    return DequantizeBlocks().node(model, name, inputs, ir.Value(), block_size=block)


def _inputs(made: QuantizedTensors) -> list[ir.Value]:
    tensors = [t for t in (made.q, made.scale, made.zero_point, made.minimum) if t is not None]
    return [ir.Value(name=t.name, type=ir.TensorType(t.dtype), shape=ir.Shape(t.dims), const_value=t) for t in tensors]


def _first_reader(linear: Linear) -> ir.Node:
    """The node before which a weight of `linear` has to be made: its Transpose if it has one."""
    transposed = linear.node.inputs[1] if linear.kind == "matmul" else None
    producer = transposed.producer() if transposed is not None else None
    return producer if producer is not None and producer.op_type == "Transpose" else linear.node


def _connect(linear: Linear, value: ir.Value) -> None:
    """Connect `linear` to the weight `value` [N, K]; remove the old DequantizeLinear if nothing else reads it."""
    node, old = linear.node, linear.quant.node if linear.quant else None
    if linear.kind == "matmul":
        _connect_matmul(node, linear, value)
    else:
        node.replace_input_with(0 if linear.kind == "gather" else 1, value)
        if linear.kind == "gemm":
            node.attributes["transB"] = ir.AttrInt64("transB", 1)
    if old is not None and not old.outputs[0].uses() and old.graph is not None:
        old.graph.remove(old, safe=True)


def _connect_matmul(node: ir.Node, linear: Linear, value: ir.Value) -> None:
    current = node.inputs[1]
    turn = current.producer() if current is not None else None
    if linear.rows_are_outputs and turn is not None and current is not None and len(current.uses()) == 1:
        turn.replace_input_with(0, value)
        return
    made = ir.node("Transpose", [value], {"perm": [1, 0]}, name=f"{linear.name}.transpose")
    output = made.outputs[0]
    n, k = linear.shape
    output.name, output.shape, output.type = f"{linear.name}.weight_t", ir.Shape((k, n)), value.type
    if node.graph is None:
        raise ValueError(f"node `{node.name}` is in no graph")
    node.graph.insert_before(node, made)
    node.replace_input_with(1, output)


def _note_rounded_again(before: Mapping[str, _State], after: Mapping[str, Linear], scope: Scope) -> None:
    """Say how many weights that are stored in integers got others, made from the floats they stand for."""
    kinds: dict[tuple[str, bool], int] = {}
    for name, state in before.items():
        stored = None if state.source is None or state.format_ is not None else stored_integers(state.source)
        made = None if stored is None or name not in after else _current_format(after[name]).format_
        if stored is not None and made is not None and made.method != "keep":
            kept = stored.q is not None and stored.ordered and (stored.minimum is None or scope.minimums)
            kept = kept and any(stored.block % block == 0 for block in BLOCKS)
            kinds[stored.name, kept] = kinds.get((stored.name, kept), 0) + 1
    for (kind, kept), count in kinds.items():
        better = "; `method = keep` ships their integers as they are" if kept else ""
        scope.note(f"{count} weights stored as {kind} are rounded once more, from the floats they stand for{better}")


def _note_untied(found: list[Linear], before: dict[str, _State], after: dict[str, Linear], scope: Scope) -> None:
    """Say what it costs that ops which shared one weight do not share it any more."""
    for first in found:
        shared = [x for x in found if before[x.name] == before[first.name] and before[x.name].source is not None]
        if len(shared) < 2 or shared[0] is not first:
            continue
        kept = after[shared[0].name].initializer
        for other in shared[1:]:
            linear = after[other.name]
            if linear.initializer is kept:
                continue
            changed = linear if _current_format(linear) != before[other.name] else after[first.name]
            size = _size(_nbytes(changed))
            scope.note(f"`{other.name}` no longer shares its weight with `{first.name}`: {size} more")


def _nbytes(linear: Linear) -> int:
    if linear.quant is None:
        return linear.stored.nbytes if linear.stored is not None else 0
    parts = (linear.quant.q, linear.quant.scale, linear.quant.zero_point, linear.quant.minimum)
    return sum(part.nbytes for part in parts if part is not None)


def _size(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 1 << 20 else f"{count} bytes"
