"""Facts about tensors, nodes, graphs and models: each defined once, with what it survives and how it is shown.

    w' = derive(…, parent=w, transform=ROTATE)      w' has the facts of w that a rotation keeps; the user is told of
                                                    the others: "rotation ends 2:4 on `layers.0.mlp.up_proj`"

A fact about a tensor is an object in its `meta`. Facts about nodes, graphs and models are text in their metadata, which
an ONNX file keeps. `TABLE` holds them all: dumps, manifests and legality loop over it. How to add one:
`docs/developing/adding-a-fact.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from .weight_format import WeightFormat

if TYPE_CHECKING:
    import onnx_ir as ir

    from .module import Module

T = TypeVar("T")


class Transform(Enum):
    """How one tensor is made from another; the value is the word for it in notes."""

    CAST = "cast"  # the same numbers in another float type
    SCALE = "scaling"  # rows or columns times factors
    ROTATE = "rotation"  # rows or columns times an orthogonal matrix
    TRANSPOSE = "transposition"
    UNTIE = "untying"  # a copy for one of several readers
    QUANTISE = "quantisation"  # float weights to integers
    DEQUANTISE = "dequantisation"  # integers to the floats they stand for
    PACK = "packing"  # the same numbers in the layout of an engine
    PRUNE = "pruning"  # some of the numbers zero, the others the same or re-fitted
    PERMUTE = "permutation"  # rows or columns in another order
    JOIN = "joining"  # rows of several one behind the other: a fact about one is none about all
    MEASURE = "measuring"  # another quantity, such as scales: no fact about the weight is one about it


class Subject(Enum):
    """What a fact is about."""

    TENSOR = "tensor"
    NODE = "node"
    GRAPH = "graph"
    MODEL = "model"


class Holder(Protocol):
    """Anything of onnx-ir that can carry facts: a tensor, node, graph or model."""

    @property
    def meta(self) -> Any:
        """Objects by key, which no file keeps."""

    @property
    def metadata_props(self) -> Any:
        """Text by key, as in an ONNX file."""


@dataclass(frozen=True)
class Annotation(Generic[T]):
    """One kind of fact.

    key      name in the metadata, `edgec.…`
    subject  what it is about
    keeps    transforms of a tensor that it survives
    show     its text, for people and for ONNX metadata; None: it is for passes only, and nobody is told of its end
    parse    the inverse of `show`; needed for all but tensors. ValueError for what it cannot read
    check    yields what is not legal about it, as the end of a sentence; gets the node, graph, model, or the value that
             holds the tensor
    prefix   what stands before the text in graph dumps; None: the key without `edgec.`
    through  the fact about what a transform that it survives has made; None: the same fact
    """

    key: str
    subject: Subject
    keeps: frozenset[Transform] = frozenset()
    show: Callable[[T], str] | None = None
    parse: Callable[[str], T] | None = None
    check: Callable[[Any, T], Iterator[str]] | None = None
    prefix: str | None = None
    through: Callable[[T, Transform], T] | None = None

    def get(self, holder: Holder) -> T | None:
        """The fact about `holder`, None if there is none."""
        if self.key in holder.meta:
            return holder.meta[self.key]
        text = holder.metadata_props.get(self.key)
        return None if text is None or self.parse is None else self.parse(text)

    def set(self, holder: Holder, fact: T) -> None:
        """State the fact about `holder`."""
        if self.subject is Subject.TENSOR:
            holder.meta[self.key] = fact
        elif self.show is None:
            raise ValueError(f"`{self.key}` has no text, which a fact about a {self.subject.value} needs")
        else:
            holder.metadata_props[self.key] = self.show(fact)

    def remove(self, holder: Holder) -> None:
        """Forget the fact about `holder`, if there is one."""
        holder.meta.pop(self.key, None)
        holder.metadata_props.pop(self.key, None)

    def dumped(self, text: str) -> str:
        """The fact in a dump of a graph: `format: int4 block 32 symmetric`."""
        prefix = f"{self.key.removeprefix('edgec.')}: " if self.prefix is None else self.prefix
        return prefix + text


TABLE: dict[str, Annotation[Any]] = {}


def define(annotation: Annotation[T]) -> Annotation[T]:
    """Add a kind of fact to the table; ValueError if its key is taken."""
    if annotation.key in TABLE:
        raise ValueError(f"`{annotation.key}` is defined already")
    TABLE[annotation.key] = annotation
    return annotation


def shown(subject: Subject, holder: Holder) -> Iterator[tuple[Annotation[Any], str]]:
    """The facts about `holder` that have a text, in the order of the table."""
    for annotation in TABLE.values():
        if annotation.subject is subject and annotation.show is not None:
            fact = annotation.get(holder)
            if fact is not None:
                yield annotation, annotation.show(fact)


def texts(subject: Subject, holder: Holder) -> dict[str, str]:
    """The same as plain text, by key, for a manifest. A weight's format has columns of its own there."""
    return {annotation.key: text for annotation, text in shown(subject, holder) if annotation is not FORMAT}


def counted(module: Module) -> dict[str, dict[str, int]]:
    """How often each fact is stated in `module`: {"edgec.device": {"cpu": 3, "npu": 40}}."""
    found: dict[str, dict[str, int]] = {}
    for subject, holder, _value, _where in _holders(module):
        for annotation, text in shown(subject, holder):
            row = found.setdefault(annotation.key, {})
            row[text] = row.get(text, 0) + 1
    return found


def carry(parent: Holder, made: Holder, transform: Transform, name: str) -> list[str]:
    """Give `made` the facts about the tensor `parent` that `transform` keeps; the others in words, for the user."""
    ended: list[str] = []
    for annotation in TABLE.values() if transform is not Transform.MEASURE else ():
        fact = annotation.get(parent) if annotation.subject is Subject.TENSOR else None
        if fact is None:
            continue
        if transform in annotation.keeps:
            annotation.set(made, fact if annotation.through is None else annotation.through(fact, transform))
        elif annotation.show is not None:
            ended.append(f"{transform.value} ends {annotation.show(fact)} on `{name.removesuffix('.weight')}`")
    return ended


def ended_facts(module: Module) -> dict[str, None]:
    """Which facts have ended on the way to the weights that `module` has now, in words and in order."""
    weights = (value.const_value for model in module.graphs.values() for value in model.graph.initializers.values())
    return {text: None for weight in weights for text in getattr(weight, "ended", ())}


def faults(module: Module) -> Iterator[str]:
    """What is not legal about the facts that `module` states."""
    for found in _holders(module):
        yield from _faults(*found)


def _holders(module: Module) -> Iterator[tuple[Subject, Holder, object, str]]:
    """Everything that can carry facts; behind it what a check is given, and its place in words."""
    for key, model in module.graphs.items():
        yield Subject.MODEL, model, model, f"graph `{key}`"
        yield Subject.GRAPH, model.graph, model.graph, f"graph `{key}`"
        for node in model.graph:
            yield Subject.NODE, node, node, f"`{node.name}` in graph `{key}`"
        for value in model.graph.initializers.values():
            if value.const_value is not None:
                yield Subject.TENSOR, value.const_value, value, f"`{value.name}` in graph `{key}`"


def _faults(subject: Subject, holder: Holder, given: object, where: str) -> Iterator[str]:
    from .weights import WeightsUnread

    for annotation in TABLE.values():
        if annotation.subject is not subject:
            continue
        try:
            fact = annotation.get(holder)
        except ValueError as error:
            yield f"{where} has `{annotation.key}` = `{holder.metadata_props[annotation.key]}`: {error}"
            continue
        if fact is not None and annotation.check is not None:
            try:
                yield from [f"{where} {why}" for why in annotation.check(given, fact)]
            except WeightsUnread:  # a dry run: what needs numbers is checked when there are some
                continue


def _one_of(*known: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in known:
            raise ValueError(f"known are {', '.join(known)}")
        return text

    return parse


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("it holds 0, 1, 2, …")
    return int(text)


def _range(text: str) -> tuple[float, float]:
    low, high = map(float, text.split())
    if not low <= high:
        raise ValueError("the lower end is above the upper one")
    return low, high


def _described_by_its_tensors(value: ir.Value, format_: WeightFormat) -> Iterator[str]:
    """What a stated format says of integers, scales and zero points, where a DequantizeLinear reads them."""
    dtype = value.dtype
    for node, index in value.uses():
        if node.op_type != "DequantizeLinear" or index != 0 or dtype is None:
            continue
        zero = len(node.inputs) > 2 and node.inputs[2] is not None
        if dtype.is_signed() != format_.signed or dtype.bitwidth < format_.bits:
            yield f"holds {dtype.name.lower()}, its format is {format_}"
        if zero and format_.symmetric:
            yield f"has a zero point, its format is {format_}"
        if not zero and not format_.symmetric:
            yield f"has no zero point, its format is {format_}"
        if (node.attributes.get_int("block_size", 0) or None) != format_.block:
            yield f"is dequantised in blocks of {node.attributes.get_int('block_size', 0)}, its format is {format_}"


_PACKED = frozenset((Transform.PACK, Transform.UNTIE))

FORMAT: Annotation[WeightFormat] = define(
    Annotation("edgec.format", Subject.TENSOR, _PACKED, WeightFormat.describe, check=_described_by_its_tensors)
)  # on integers: the format a pass made them in
FLOAT_WEIGHT: Annotation[ir.TensorProtocol] = define(
    Annotation("edgec.float", Subject.TENSOR, _PACKED)
)  # on integers: the float weight they were made from
SAME_BYTES: Annotation[ir.TensorProtocol] = define(
    Annotation("edgec.same_bytes", Subject.TENSOR)
)  # the tensor whose stored bytes are also this one's, in another shape
DEVICE: Annotation[str] = define(
    Annotation("edgec.device", Subject.NODE, show=str, parse=str, prefix="@")
)  # where a node runs, from level `placed` on; legality's rule `devices` knows at which levels
SHARD: Annotation[int] = define(
    Annotation("edgec.shard", Subject.NODE, show=str, parse=_count)
)  # which of several parts on its device a node belongs to; 0 where it is not stated
ENGINE: Annotation[str] = define(
    Annotation("edgec.engine", Subject.NODE, show=str, parse=str)
)  # the target that runs a node in place of its model's own on the same device; absent where that does
ACTIVATIONS: Annotation[str] = define(
    Annotation("edgec.activations", Subject.NODE, show=str, parse=_one_of("fp16", "uint16", "uint8"))
)  # on a linear: the type requested for its inputs and outputs
WIDE: Annotation[str] = define(
    Annotation("edgec.wide", Subject.NODE, show=str, parse=_one_of("uint16"))
)  # on a linear: its activations are wider than the line asked, since 8 bits would lose most there
ACTIVE: Annotation[int] = define(
    Annotation("edgec.active", Subject.NODE, show=str, parse=_count)
)  # on a linear: how many channels of its input a token keeps (`active_channels`)
ORDER: Annotation[str] = define(
    Annotation("edgec.order", Subject.MODEL, show=str, parse=_one_of("by_kind"))
)  # in which order weights lie in the bundle's file
SCORES: Annotation[tuple[float, float]] = define(
    Annotation("edgec.scores", Subject.NODE, show=lambda ends: f"{ends[0]:.9g} {ends[1]:.9g}", parse=_range)
)  # on Attention: the least and largest q k^T scale where the mask is open, as calibration has measured them
RANGES: Annotation[str] = define(
    Annotation("edgec.ranges", Subject.GRAPH, show=str, parse=str)
)  # how ranges of integer activations are chosen
KV_TYPE: Annotation[str] = define(
    Annotation("edgec.kv", Subject.GRAPH, show=str, parse=_one_of("uint8", "int16", "uint4"))
)  # type of the K/V cache where it is not that of the activations
ROTATED: Annotation[tuple[str, ...]] = define(
    Annotation("edgec.rotated", Subject.MODEL, show=" ".join, parse=lambda text: tuple(text.split()))
)  # what `rotate` has rotated: `residual`, `values`
SHADOW: Annotation[str] = define(
    Annotation("edgec.shadow", Subject.NODE, show=str, parse=_one_of("clip", "main", "cpu", "sum"))
)  # clip: bounds what linears in 8 bits read; main: a linear behind it; cpu: its shadow, which computes what lies
# beyond the bounds; sum: adds the two
_SAME_ROWS = frozenset(Transform) - {Transform.TRANSPOSE, Transform.PERMUTE, Transform.JOIN, Transform.MEASURE}


def _joined(text: str) -> tuple[tuple[str, int], ...]:
    rows = [row.rpartition(":") for row in text.split()]
    return tuple((name, _count(number)) for name, _, number in rows)


JOINED: Annotation[tuple[tuple[str, int], ...]] = define(
    Annotation(
        "edgec.joined",
        Subject.TENSOR,
        _SAME_ROWS,
        show=lambda rows: " ".join(f"{name}:{n}" for name, n in rows),
        parse=_joined,
    )
)  # on a weight that `fuse` has made: the linears whose rows it holds, with their number, in order
