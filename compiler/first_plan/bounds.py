"""`require` lines that hold: the estimate of the plan with room to spare, and the memory that was given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .forms import Line
from .written_plan import Skeleton

if TYPE_CHECKING:
    from ..driver import Estimate
    from ..plan.plan import Deploy, Plan

_ROOM = 1.2  # beside what is estimated: alignments, tables of graphs, the engine's own files
_MORE = 1.05  # of planned memory: binaries hold more than weights, by 1 to 4 % beside their tables
_RATE = 0.9  # of the estimated rate
_LOSS = 1.1  # perplexity by baseline: gptq at 4 bits costs 0.2 to 4 %, MNN's 8-bit inputs up to 6 % more
_GRAPH_TABLES = 8.0  # bytes for each row and column of a linear, in each NPU graph (docs/estimate.md)


def peak_memory(plan: Plan, made: Estimate) -> float:
    """Bytes that the device needs at once: what is planned for each model, tables of NPU graphs, and a little room."""
    planned = float(sum(entry["peak"] for entry in made.memory.values()))
    return _MORE * (planned + sum(_tables(plan, made, deploy) for deploy in plan.deploys))


def requirements(plan: Plan, made: Estimate, skeleton: Skeleton, memory: int | None) -> list[Line]:
    """The lines for this plan."""
    return list(_requirements(plan, made, skeleton, memory))


def _requirements(plan: Plan, made: Estimate, skeleton: Skeleton, memory: int | None) -> Iterator[Line]:
    size = _bundle_size(plan, made)
    yield Line(f"bundle.size <= {_written(_ROOM * size)}", f"about {size / 1e6:,.1f} MB are expected")
    need = peak_memory(plan, made)
    if memory is not None:
        yield Line(f"peak_memory <= {_exact(memory)}", f"as asked; about {need / 1e6:,.1f} MB are expected")
    else:
        yield Line(
            f"peak_memory <= {_written(_ROOM * need)}", f"weights, K/V and activations: about {need / 1e6:,.1f} MB"
        )
    if made.decode is not None and made.pair is None:
        why = f"{made.decode:.1f} tok/s are estimated from published rates; nothing was run"
        yield Line(f"decode.rate >= {_rate(_RATE * made.decode)} tok/s", why)
    if skeleton.texts.evaluation:
        for one in skeleton.models:
            if one.model.arch is not None and one.name != "draft":
                why = "tighten it when the report has told what the integers cost"
                yield Line(f"{one.name}.perplexity <= {_LOSS} * baseline", why)


def _bundle_size(plan: Plan, made: Estimate) -> float:
    """Weights as stored, tokenizers, tables of NPU graphs."""
    size = float(sum(entry["weights"] for entry in made.memory.values()))
    for deploy in plan.deploys:
        model = plan.models[deploy.model]
        folder = model.source.tokenizer_folder
        if model.arch is not None and folder is not None and (folder / "tokenizer.json").is_file():
            size += 1.5 * (folder / "tokenizer.json").stat().st_size  # the engine's own form beside it
        size += _tables(plan, made, deploy)
    return size + 0.5e6  # scripts, plans of memory, the engines' graphs


def _tables(plan: Plan, made: Estimate, deploy: Deploy) -> float:
    """Bytes of the tables in the binary of a model on the NPU."""
    arch = plan.models[deploy.model].arch
    if deploy.device != "npu" or arch is None:
        return 0.0
    calls = next(one.calls for one in made.models if one.name == deploy.model)
    return _GRAPH_TABLES * max(1, len(calls)) * sum(n + k for n, k in arch.linears().values())


def _written(size: float) -> str:
    """A size in megabytes, rounded up to two digits."""
    step = 10 ** max(0, math.floor(math.log10(max(size, 1e6) / 1e6)) - 1)
    return f"{math.ceil(size / 1e6 / step) * step} MB"


def _exact(size: int) -> str:
    for unit, bytes_ in (("GB", 10**9), ("GiB", 1 << 30), ("MB", 10**6), ("MiB", 1 << 20), ("KB", 1000)):
        if size % bytes_ == 0:
            return f"{size // bytes_} {unit}"
    return f"{size} B"


def _rate(rate: float) -> str:
    return f"{math.floor(rate)}" if rate >= 10 else f"{math.floor(rate * 10) / 10:g}"
