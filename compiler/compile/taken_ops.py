"""What each target would take of a plain graph by edgec's own rules, op by op, before a plan exists.

    load (headers)  ->  one part, its weights dry  ->  Target.lacking and Target.takes  ->  a row for each kind of op

Ops inside the bodies of If, Loop and Scan are counted; a body goes with the node that holds it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..diagnostics.diagnostic import EdgecError
from ..emit.engine_lowering import by_rules
from ..emit.part import Part
from ..emit.target import TakesRequest
from ..plan.devices import devices
from ..registry import targets
from .dry_run import dried

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..emit.capabilities import Refusal
    from ..emit.target import Target
    from ..ir.module import Module
    from ..plan.devices import Device


@dataclass
class OpRow:
    """One kind of op: how many there are, how many are not taken, and why, with the names of their nodes.

    `unproven`: taken if a run of the engine shows it right, which a compile does and `edgec prove` too.
    """

    count: int
    refused: int = 0
    unproven: int = 0
    reasons: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Taken:
    """What one target makes of a graph: a row for each kind of op, and what it refuses of the model as a whole."""

    target: str
    ops: dict[str, OpRow]
    others: dict[str, list[str]] = field(default_factory=dict)  # reasons about inputs and outputs -> their names
    unseen: bool = False  # behind inputs that are refused nothing more is told of the ops

    @property
    def whole(self) -> bool:
        """Whether nothing is refused."""
        return not self.others and not any(row.refused for row in self.ops.values())

    def facts(self) -> dict[str, Any]:
        """The rows as plain JSON values."""
        rows = {
            op: {"count": row.count, "refused": row.refused, "unproven": row.unproven}
            | ({"reasons": row.reasons} if row.reasons else {})
            for op, row in self.ops.items()
        }
        others = {"others": self.others} if self.others else {}
        return {"takes": self.whole, "all_told": not self.unseen, "ops": rows, **others}


def taken_ops(module: Module, device: str | None = None) -> list[Taken]:
    """What every installed target would take of the plain graph `module`, whose weights are not read after this.

    `device`: the chip an NPU's target is asked for; else the first of the known ones.
    """
    dry = dried(module)
    return [_taken(cls, dry, _device(device)) for cls in targets().values()]


def takers(module: Module, device: Device | None) -> list[str]:
    """The names of the targets that would take all of `module`, which is dry; `device` as for `taken_ops`."""
    return [name for name, cls in targets().items() if _taken(cls, module, device or _device(None)).whole]


def _device(name: str | None) -> Device:
    known = devices()
    return known[name] if name is not None else next(one for one in known.values() if one.has_npu)


def _taken(cls: type[Target], module: Module, device: Device) -> Taken:
    place = next(iter(sorted(cls.capabilities.places)))
    part = Part(f"{module.name}.{place}0", place, dict(module.graphs))
    rows = {op: OpRow(count) for op, count in sorted(_counted(module).items())}
    found = Taken(cls.name, rows)
    holders = {node.name or "": node for node in module.main.graph}
    for node in cls().lacking(module.main.graph):
        _refuse(found, node, "no form for this op")
    try:
        with _unlogged():
            refused = list(cls().takes(TakesRequest(module, [part], device, by_rules(cls.Options()))))
    except EdgecError as error:  # a whole model that cannot be looked at
        found.others = {one.message: [] for one in error.diagnostics}
        return found
    inputs = {value.name for value in module.main.graph.inputs}
    found.unseen = any(one.node in inputs for one in refused)
    for one in refused:
        node = holders.get(one.node)
        if node is None:
            found.others.setdefault(_reason(one), []).append(one.node)
        elif not any(one.node in names for row in rows.values() for names in row.reasons.values()):
            _refuse(found, node, _reason(one), bool(one.unproven))
    return found


@contextmanager
def _unlogged() -> Iterator[None]:
    """onnx-ir logs what it could not infer without weights; what follows from that is told as a refusal."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _refuse(found: Taken, node: ir.Node, reason: str, unproven: bool = False) -> None:
    from ..ir.bodies import inside

    row = found.ops[_kind(node)]
    row.refused += not unproven
    row.unproven += unproven
    row.reasons.setdefault(reason, []).append(node.name or "")
    for inner in inside(node):
        found.ops[_kind(inner)].refused += 1
        found.ops[_kind(inner)].reasons.setdefault(f"inside {node.op_type} `{node.name}`", []).append(inner.name or "")


def _reason(refusal: Refusal) -> str:
    return refusal.message.replace("`{}`", "it").replace("{}", "it")


def _counted(module: Module) -> Counter[str]:
    from ..ir.bodies import inside

    graph = module.main.graph
    return Counter(_kind(one) for node in graph for one in (node, *inside(node)))


def _kind(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
