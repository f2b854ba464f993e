"""What the report says of a model's weights: kinds, formats, bits as stored, errors, and a row for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from ..ir.weight_format import WeightFormat
from .markup import code, escape, folded, size, table
from .plots import bar, by_layer, formats_by_layer, stack

_FLAT = 60  # weights a table shows before it is folded away
_KINDS = {"embed_tokens": "embedding", "lm_head": "head", "self_attn": "attention", "mlp": "MLP"}

Row = Mapping[str, Any]


def stored_bits(row: Row) -> float:
    """Bits per weight as stored, its share of scales and zero points included; older bundles do not state the bytes."""
    if row.get("bytes"):
        return 8 * row["bytes"] / max(prod(row["shape"]), 1)
    made = WeightFormat.of_entry(row)
    if made is None:
        return float("".join(filter(str.isdigit, row["dtype"])) or 32)
    outputs, inputs = row["shape"][0], prod(row["shape"][1:])
    return made.size(outputs, inputs) / (outputs * inputs)


def own_rows(entry: Mapping[str, Any]) -> list[Row]:
    """The weights of a model in the manifest, a tied head left out: it is one with its embedding."""
    tied = (entry.get("arch") or {}).get("tied", False)
    return [row for row in entry["weights"] if not (tied and row["name"] == "lm_head")]


def mean_bits(entry: Mapping[str, Any]) -> float:
    """Bits per weight over all of a model's weights."""
    rows = own_rows(entry)
    return sum(stored_bits(row) * prod(row["shape"]) for row in rows) / max(sum(prod(r["shape"]) for r in rows), 1)


def bytes_per_token(entry: Mapping[str, Any]) -> float:
    """Bytes of weights that computing one token of a decoder reads: all linears, no table of which one row is read."""
    return sum(stored_bits(row) * prod(row["shape"]) / 8 for row in entry["weights"] if row["name"] != "embed_tokens")


def by_kind(entry: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    """Kind of weight -> (how many weights, their bytes as stored)."""
    found: dict[str, tuple[int, float]] = {}
    for row in own_rows(entry):
        kind = kind_of(row["name"])
        count, stored = found.get(kind, (0, 0.0))
        found[kind] = count + prod(row["shape"]), stored + stored_bits(row) * prod(row["shape"]) / 8
    return found


def kind_of(name: str) -> str:
    """What a weight is for, by its name."""
    return next((kind for part, kind in _KINDS.items() if part in name.split(".")), "other weights")


def kinds_table(entry: Mapping[str, Any]) -> str:
    """What each kind of weight takes beside 16-bit floats."""
    kinds = by_kind(entry)
    largest = max((2.0 * count for count, _ in kinds.values()), default=0.0)
    rows = []
    for kind, (count, stored) in kinds.items():
        wide = 130 * 2.0 * count / largest if largest else 0
        inner = f"<i style='--w:{100 * stored / (2.0 * count):.1f}%'></i>"
        drawn = f"<span class='bar of16' style='--full:{wide:.0f}px'>{inner}</span>"
        figures = [f"{count / 1e6:,.2f} M", size(2.0 * count), size(stored), f"{8 * stored / count:.2f}"]
        rows.append([escape(kind), *figures, drawn])
    head = ["kind", "weights", "as float16", "as stored", "bits each", "stored, of float16"]
    return table("sizes by kind of weight", head, rows, numbers=[1, 2, 3, 4])


def weights_section(entry: Mapping[str, Any], errors: Mapping[str, float]) -> str:
    """Formats by layer, the error and the bits by layer, and a row for every weight."""
    weights = entry["weights"]
    if not weights:
        return ""
    bits = {row["name"]: stored_bits(row) for row in weights}
    blocks = ["<h3>Weights</h3>", kinds_table(entry), _formats(own_rows(entry))]
    worst = max(errors.values(), default=0.0)
    if worst:
        grid = by_layer(errors, "rms error")
        blocks.append(grid and "<h4>Relative error of the quantised weights</h4>" + grid)
    elif errors:
        blocks.append("<p class=quiet>The integers stand for the source's weights without an error.</p>")
    if len({bits[name] for name in bits if ".layers." in f".{name}"}) > 1:
        blocks.append("<h4>Bits per weight</h4>" + by_layer(bits, "bits"))
    rows = [_weight(row, bits[row["name"]], errors.get(row["name"]), worst) for row in weights]
    head = ["weight", "shape", "format", "bits per weight", "error", "decided by"]
    shown = table("all weights", head, rows)
    blocks.append(folded(f"all {len(rows)} weights", shown, opened=len(rows) <= _FLAT))
    return "\n".join(filter(None, blocks))


def _weight(row: Row, bits: float, error: float | None, worst: float) -> list[str]:
    return [
        code(row["name"]),
        " × ".join(map(str, row["shape"])),
        escape(_format(row)),
        bar(bits, 16, f"{bits:.2f}"),
        "" if error is None else bar(error, worst, f"{error:.4f}", "plain"),
        f"<span class=quiet>{escape(row['source_line'])}</span>" if row.get("source_line") else "",
    ]


def stated(entry: Mapping[str, Any], between: str) -> str:
    """What passes have stated about a model or a weight, each behind `between`."""
    facts = entry.get("facts", {}).items()
    return "".join(f"{between}{key.removeprefix('edgec.')} {text}" for key, text in facts)


def _format(row: Row) -> str:
    made = WeightFormat.of_entry(row)
    return (row["dtype"] if made is None else made.describe()) + stated(row, ", ")


def _formats(weights: Sequence[Row]) -> str:
    """Formats by their share of the weights, and where they are: the key's colours are the grid's."""
    counted: dict[str, int] = {}
    for row in weights:
        counted[_format(row)] = counted.get(_format(row), 0) + prod(row["shape"])
    order = sorted(counted, key=lambda name: -counted[name])
    shares = stack("formats by share of the weights", [(name, float(counted[name])) for name in order])
    grid = formats_by_layer({row["name"]: _format(row) for row in weights}, order)
    return f"<h4>Formats, by share of the weights</h4>{shares}" + grid
