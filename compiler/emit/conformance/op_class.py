"""Which measured rows speak for a use of a lowering: its class.

    use     lowering, shape     shape = numbers (tokens, rows, K, ...) + words (bits, mask, ...) + attributes of the op
    class   lowering, the names of the numbers, every word with its value

Attributes come from the op's own schema (`compiler/ir/attributes.py`), so that one nobody thought of makes a class of
its own instead of counting as the default. A target says two things about them: which are `numbers`, where a value
between two measured ones is taken, and which are `settled`: they reach the engine in another form or not at all, with
the reason. Attributes at their default are left out of a shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...ir.attributes import Value

Cell = int | float | str | bool
Shape = tuple[tuple[str, Cell], ...]


@dataclass(frozen=True)
class Use:
    """One lowering that an emitter chose: its name, its shape, and the node of the graph it serves."""

    lowering: str
    shape: Shape
    node: str


@dataclass(frozen=True)
class ClassRule:
    """What a target says about shapes. `settled`: op type -> attribute -> how it reaches the engine."""

    numbers: frozenset[str]
    settled: Mapping[str, Mapping[str, str]]

    def shape(self, node: ir.Node, cells: Mapping[str, Cell], given: Mapping[str, Value] | None = None) -> Shape:
        """The shape of a use of `node`: `cells` and the node's attributes; `given` replaces values as emitted."""
        return tuple(sorted({**self.attribute_cells(node, given or {}), **cells}.items()))

    def attribute_cells(self, node: ir.Node, given: Mapping[str, Value]) -> dict[str, Cell]:
        """Every attribute that is not settled: numbers always, words where they differ from the default."""
        from ...ir.attributes import attributes, defaults

        usual, settled = defaults(node), self.settled.get(node.op_type, {})
        cells: dict[str, Cell] = {}
        for name, value in {**attributes(node), **given}.items():
            if name in settled or value is None:
                continue
            if name in self.numbers:
                cells.update(_numbers(name, value))
            elif value != usual.get(name):
                cells[name] = _word(value)
        return cells

    def is_number(self, name: str) -> bool:
        """Whether values between measured ones are taken; `pads.2` is an entry of the attribute `pads`."""
        return name.partition(".")[0] in self.numbers

    def class_of(self, lowering: str, shape: Iterable[tuple[str, Cell]]) -> tuple[object, ...]:
        """The key that rows and uses of one class share."""
        return lowering, tuple(sorted((name, None if self.is_number(name) else value) for name, value in shape))


def _numbers(name: str, value: Value) -> dict[str, Cell]:
    if isinstance(value, tuple):
        return {f"{name}.{index}": item for index, item in enumerate(value)}
    return {} if value is None else {name: value}


def _word(value: Value) -> Cell:
    if isinstance(value, tuple):
        return "x".join(str(item) for item in value)
    return "" if value is None else value
