"""Hold keys and values in 4 bits, two in a byte: what `kv = uint4` on a deploy line adds to its pipeline.

    new V  ->  (clip(round(v / s + z), 0, 15) - z) * s      s and z of each position, K/V head and 32 channels
    new K  ->  the same of (k - m) * w                      and queries as q / w

`ir/packed_cache.py` has the format, why keys are balanced, and what the first position of a text is beside. Means and
weights of channels are measured on the calibration text without the first positions of its windows; what those hold is
the median over many windows. Keys are stored after rotary embedding. The driver appends this pass; a plan does not name
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...compiler.ir.levels import Level
from ...compiler.pipeline.demands import Demands
from ...compiler.pipeline.pass_interface import Pass, Scope, Tolerance
from ...compiler.plan.parameters import param

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from ...compiler.ir.module import Module
    from ...compiler.ir.packed_cache import Balance

_WINDOWS = 8  # of the calibration text: statistics of channels settle soon
_FIRSTS = 64  # windows whose first positions are looked at
_AT_ONCE = 2
_APART = 1e3  # between weights of channels, at most


@dataclass(frozen=True)
class KvUint4(Pass):
    """Round keys and values to 4 bits with scales for each position."""

    name: ClassVar[str] = "kv_cache"
    takes: ClassVar[tuple[Level, ...]] = (Level.SEMANTIC, Level.COMPRESSED)
    selects: ClassVar[bool] = False

    type: str = param("uint4", doc="type of keys and values", choices=("uint4",))

    @property
    def tolerance(self) -> Tolerance:
        """Half a step of 15 in each key and value."""
        return Tolerance(1.5, "uint4 cache")

    @property
    def moves_cache(self) -> bool:
        """It rounds what the cache holds."""
        return True

    def demands(self) -> Demands:
        """The cache's type, and what is measured of keys for it."""
        return Demands(cache=self.type, calibration="kv = uint4", decoder="kv = uint4")

    def run(self, module: Module, scope: Scope) -> int:
        """Return how many tensors of keys and values are rounded."""
        from ...compiler.ir import kv_names
        from ...compiler.ir.annotations import KV_TYPE
        from ...compiler.ir.packed_cache import balance_keys, round_added, rounded_outputs

        graph = module.main.graph
        if KV_TYPE.get(graph) == self.type:
            return 0
        balances = _blank(module) if scope.dry else _measured(module, scope)
        names = [value.name for value in rounded_outputs(graph)]
        for name in names:
            named = kv_names.parse(name)
            assert named is not None
            balance = balances[named.layer]
            if named.kind == kv_names.KEY:
                balance_keys(graph, _output(graph, name), balance)
            base = balance.first_balanced if named.kind == kv_names.KEY else balance.first_value
            round_added(graph, _output(graph, name), base)
        graph.sort()
        KV_TYPE.set(graph, self.type)
        return len(names)


def _output(graph: ir.Graph, name: str | None) -> ir.Value:
    return next(value for value in graph.outputs if value.name == name)


def _keys(graph: ir.Graph) -> dict[str, ir.Node]:
    """Name of added keys -> the Attention that reads them."""
    return {
        node.inputs[1].name or "": node for node in graph if node.op_type == "Attention" and node.inputs[1] is not None
    }


def _layer(name: str) -> int:
    from ...compiler.ir import kv_names

    named = kv_names.parse(name)
    assert named is not None
    return named.layer


def _blank(module: Module) -> dict[int, Balance]:
    import numpy as np

    from ...compiler.ir.packed_cache import Balance

    shape = (1, 1) if module.arch is None else (module.arch.kv_heads, module.arch.head_dim)
    zero, one = np.zeros(shape), np.ones(shape)
    return {_layer(name): Balance(zero, one, zero, zero) for name in _keys(module.main.graph)}


def _measured(module: Module, scope: Scope) -> dict[int, Balance]:
    """Of each layer's keys, queries and first positions on the calibration text."""
    import numpy as np

    from ...compiler.calibration.windows import windows
    from ...compiler.ir import kv_names
    from ...compiler.ir.packed_cache import Balance
    from ...compiler.oracle import oracle

    if scope.calibration is None or module.arch is None:
        raise ValueError("`kv = uint4` was run without a calibration text")
    scope.progress("channels of keys and queries")
    arch, keys = module.arch, _keys(module.main.graph)
    ids = windows(scope.calibration, module)
    firsts = oracle.run(_adding(module), oracle.feeds(arch, ids[:_FIRSTS, :1]))
    ids = ids[:_WINDOWS]
    sums: dict[str, np.ndarray] = {}
    batches = (ids[at : at + _AT_ONCE] for at in range(0, len(ids), _AT_ONCE))
    for made in oracle.run_each(_summing(module), (oracle.feeds(arch, batch) for batch in batches)):
        for name, array in made.items():
            sums[name] = sums.get(name, 0.0) + array.astype(np.float64)
    count, found = len(ids) * (ids.shape[1] - 1), {}
    for name, node in keys.items():
        layer = _layer(name)
        mean = sums[f"{name}.sum"] / count if not node.attributes.get_float("softcap", 0.0) else 0 * sums[f"{name}.sum"]
        key = sums[f"{name}.squares"] / count - mean**2
        query = sums[f"{name}.queries"].reshape(arch.kv_heads, -1, arch.head_dim).mean(axis=1) / count
        first = [np.median(firsts[one][:, :, 0], axis=0) for one in kv_names.pair(layer, kv_names.OUT)]
        found[layer] = Balance(mean.astype(np.float32), _weights(query, key), *first)
    return found


def _weights(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """(E[q^2] / E[(k - m)^2])^(1/4) [G,D], around 1 in each head: the rounding of what weighs most is least."""
    import numpy as np

    least = 1e-6 * (key.mean() + query.mean()) + 1e-12
    logs = 0.25 * (np.log(query + least) - np.log(np.maximum(key, 0) + least))
    logs -= logs.mean(axis=1, keepdims=True)
    return np.exp(np.clip(logs, -np.log(_APART), np.log(_APART))).astype(np.float32)


def _adding(module: Module) -> ir.Model:
    """The main graph with the keys and values that it adds for outputs."""
    from ...compiler.ir.clone import clone_model
    from ...compiler.ir.module import drop_unread_nodes
    from ...compiler.ir.packed_cache import rounded_outputs

    model = clone_model(module.main)
    added = list(rounded_outputs(model.graph))
    model.graph.outputs.clear()
    model.graph.outputs.extend(added)
    drop_unread_nodes(model.graph, lambda _node: True)
    return model


def _summing(module: Module) -> ir.Model:
    """The main graph, with sums over all positions but each window's first for outputs."""
    import numpy as np
    import onnx_ir as ir

    from ...compiler.ir.clone import clone_model
    from ...compiler.ir.module import drop_unread_nodes, initializer
    from ...compiler.ir.weights import from_array

    model = clone_model(module.main)
    graph = model.graph
    numbers = {"first": [1], "end": [1 << 30], "along": [2], "both": [0, 2]}
    held = {
        name: initializer(graph, f"sums.{name}", from_array(f"sums.{name}", np.array(value, np.int64)))
        for name, value in numbers.items()
    }
    outputs = []
    for name, node in _keys(graph).items():
        for what, value, op in (
            ("sum", node.inputs[1], "ReduceSum"),
            ("squares", node.inputs[1], "ReduceSumSquare"),
            ("queries", node.inputs[0], "ReduceSumSquare"),
        ):
            later = ir.node("Slice", [value, held["first"], held["end"], held["along"]], name=f"{name}.{what}.later")
            later.outputs[0].name = f"{name}.{what}.from"
            total = ir.node(op, [later.outputs[0], held["both"]], {"keepdims": 0}, name=f"{name}.{what}")
            made = total.outputs[0]
            made.name, made.type = f"{name}.{what}", ir.TensorType(ir.DataType.FLOAT)
            graph.append(later)
            graph.append(total)
            outputs.append(made)
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    drop_unread_nodes(graph, lambda _node: True)
    graph.sort()
    return model
