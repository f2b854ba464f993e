"""What the HTP compiler was asked for, beside what stands in the finished binary.

The engine ignores an option that it does not know, and some that it knows, without a word. So each one is looked for in
the binary: the chip and what a graph was prepared with in its metadata, the rest in its graphs and tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chip import Chip
    from .context_binary import ContextInfo

OPTIMIZATION = 3  # of the finalization: the highest there is
Row = dict[str, Any]  # option, asked, found


def option_rows(chip: Chip, info: ContextInfo, shared: bool) -> list[Row]:
    """Each option with what was asked and what is found; the same where the binary does as it was told.

    `shared`: whether the graphs of the binary share a context.
    """
    dtypes = {spec.dtype for graph in info.graphs.values() for spec in (*graph.inputs, *graph.outputs)}
    quantised = any(spec.quantization for graph in info.graphs.values() for spec in graph.inputs + graph.outputs)
    floats = dtypes & {"float16", "float32"}
    rows = [
        ("soc_model", chip.soc_model, info.soc_model),
        ("vtcm_mb", chip.vtcm_mb, _one({size and size >> 20 for size in info.vtcm_bytes.values()})),
        ("htp_graph_finalization_optimization_mode", OPTIMIZATION, _one(set(info.optimization.values()))),
        ("ep.share_ep_contexts", int(shared), int(len(info.graphs) > 1)),
    ]
    if floats and not quantised:
        rows.append(("enable_htp_fp16_precision", 1, int("float32" not in floats)))
    if quantised and not floats:
        rows.append(("offload_graph_io_quantization", 0, 0))  # its integers are at the boundary
    return [{"option": name, "asked": asked, "found": found} for name, asked, found in rows]


def _one(values: set[int | None]) -> int | str | None:
    """The value of all graphs, or all of them in words."""
    if len(values) == 1:
        return next(iter(values))
    return ", ".join(sorted("none" if value is None else str(value) for value in values))


def ignored(rows: list[Row]) -> Iterator[str]:
    """A sentence for each option that the engine did not follow."""
    for row in rows:
        if row["found"] != row["asked"]:
            yield f"`{row['option']}` was to be {row['asked']}, in the binary it is {row['found']}"
