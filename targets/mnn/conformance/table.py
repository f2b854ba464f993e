"""What MNN is known to compute right: each lowering run on the engine against the oracle, over a grid of shapes.

    python -m edgec.targets.mnn.conformance.table            rewrites table.json

The table holds, per op and per weight format, the largest error relative to the largest magnitude, and the versions
it was made with. The emitters read it: an op or a format that is not in it as right is not emitted.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from ....compiler.diagnostics.diagnostic import fail

TABLE = Path(__file__).with_name("table.json")
EXACT_BOUND = 1e-5  # memory = normal: float32 arithmetic on the stored weights
LOW_BOUND = 0.03  # memory = low: activations rounded to int8 on the way into a linear


@functools.cache
def table() -> dict[str, Any]:
    """The stored table; empty before it was first made."""
    return json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.is_file() else {"ops": {}, "weights": {}}


def known_ops() -> frozenset[str]:
    """ONNX ops whose lowering MNN runs right on the whole grid."""
    return frozenset(op for op, row in table()["ops"].items() if row["max_error"] <= EXACT_BOUND)


def check_format(linear: str, name: str) -> None:
    """Fail unless MNN runs linears of this format (`int4 block 32 symmetric`) right in both memory modes."""
    row = table()["weights"].get(name)
    if row is None or row["normal"] > EXACT_BOUND or row["low"] > LOW_BOUND:
        known = ", ".join(f"`{key}`" for key in table()["weights"] if key.split()[0] == name.split()[0])
        message = f"MNN is not known to run `{name}` right, the format of `{linear}`"
        fail("E0707", message, help=f"known at this width: {known or 'none'}")


if __name__ == "__main__":
    from .measure import main

    main(TABLE)
