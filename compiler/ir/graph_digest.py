"""What a graph with its weights is known by: equal digests compute the same, by the same names."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir

from .clone import clone_model
from .weightless import take_weights


def graph_digest(model: ir.Model) -> str:
    """sha256 of the graph but for its own name, and of every weight's type, shape and content, read block by block."""
    copy = clone_model(model)
    copy.graph.name = ""
    weights = take_weights(copy.graph)
    made = hashlib.sha256(ir.to_proto(copy).SerializeToString(deterministic=True))
    for name, weight in weights.items():
        made.update(f"{name}{weight.dtype.name}{list(weight.shape)}".encode())
        blocks = getattr(weight, "blocks", None)
        for block in (one for _, one in blocks()) if blocks is not None else [weight.numpy()]:
            made.update(np.ascontiguousarray(block).tobytes())
    return made.hexdigest()
