"""The float32 rows that a written MNN-LLM bundle holds: what `verify` puts in the place of the float model's weights.

Read by `weight_blobs.py`'s table and the ops' own fields, not by the code that wrote them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ....compiler.ir.weights import Weight
from ..run.bundle_config import MODEL, MODEL_KEYS, RUN, RUN_KEYS, read_config
from .embedding import BF16_FILE
from .read_back import WeightReader, blob_of, weight_file
from .weight_blobs import ROW_MULTIPLE, Blob
from .writer import dump

EMBEDDING = "embed_tokens"


def shipped_weights(config: Path) -> dict[str, Weight] | None:
    """Linear -> its rows [N, K], float32, of the LLM bundle whose config.json is `config`; None for a plain graph."""
    folder = config.parent
    if config.name != RUN or not (folder / MODEL).is_file():
        return None
    model = folder / read_config(config, RUN_KEYS)["llm_model"]
    reader = WeightReader(weight_file(model))
    blobs = {op["name"]: blob for op in dump(model)["oplists"] if (blob := blob_of(op)) is not None}
    made = {name: _weight(name, blob, reader) for name, blob in blobs.items()}
    described = read_config(folder / MODEL, MODEL_KEYS)
    place = described.get("tie_embeddings")
    hidden = described["hidden_size"]
    made[EMBEDDING] = _bf16(folder / BF16_FILE, hidden) if place is None else _looked_up(place, hidden, blobs, reader)
    return made


def _weight(name: str, blob: Blob, reader: WeightReader) -> Weight:
    def rows(start: int, stop: int) -> np.ndarray:
        if blob.bits >= 16:
            return reader.floats(blob, start, stop).astype(np.float32)
        first = start // ROW_MULTIPLE * ROW_MULTIPLE  # a row may begin inside a byte
        return _numbers(blob, reader, first, stop)[start - first :]

    return Weight(f"{name}.shipped", ir.DataType.FLOAT, (blob.rows, blob.columns), rows, "read from the bundle")


def _numbers(blob: Blob, reader: WeightReader, start: int, stop: int) -> np.ndarray:
    codes = reader.codes(blob, start, stop).astype(np.float32).reshape(stop - start, -1, blob.block)
    alpha = reader.alpha(blob, start, stop)
    half = np.float32(1 << (blob.bits - 1))
    if blob.symmetric:
        values = (codes - half) * alpha[..., None]
    else:  # the first number of a block belongs to the lowest code, or to the middle one
        base = codes if blob.minimum else codes - half
        values = base * alpha[..., 1:] + alpha[..., :1]
    return values.reshape(stop - start, -1)


def _looked_up(place: dict[str, Any], hidden: int, blobs: dict[str, Blob], reader: WeightReader) -> Weight:
    """The rows at the place that llm_config.json gives: the head's, or some of their own."""
    offset, bits = place["weight_offset"], place["quant_bit"]
    for blob in blobs.values():
        if blob.offset + blob.header_bytes == offset:
            return _weight(EMBEDDING, blob, reader)
    alpha, size = place["alpha_offset"], place["alpha_size"]
    if bits >= 16:
        # halves with a float of bias a row behind them, up to where something else begins
        size = reader.source.path.stat().st_size
        ends = [blob.offset for blob in blobs.values() if blob.offset > offset] or [size]
        rows = (min(ends) - offset) // (hidden * 2 + 4)
        return _weight(EMBEDDING, Blob(offset, 0, 0, 0, rows, hidden, 16, 0, True, False), reader)
    rows = (alpha - offset) * 8 // (bits * hidden)
    block = place["quant_block"] or hidden
    half = place["alpha_dtype"] == "fp16"
    symmetric = size == rows * (hidden // block) * (2 if half else 4)
    whole = Blob(offset, alpha - offset, size, 0, rows, hidden, bits, block, symmetric, half)
    return _weight(EMBEDDING, _headless(whole), reader)


def _headless(blob: Blob) -> Blob:
    """`blob`, whose offset is that of its integers, as a reader wants it: with the header before them."""
    return Blob(
        blob.offset - blob.header_bytes, blob.code_bytes + blob.header_bytes, blob.alpha_bytes, 0,
        blob.rows, blob.columns, blob.bits, blob.block, blob.symmetric, blob.half_alpha,
    )  # fmt: skip


def _bf16(path: Path, hidden: int) -> Weight:
    count = path.stat().st_size // (2 * hidden)
    stored = np.memmap(path, "<u2", "r", shape=(count, hidden))

    def rows(start: int, stop: int) -> np.ndarray:
        return (stored[start:stop].astype(np.uint32) << 16).view(np.float32)

    return Weight(f"{EMBEDDING}.shipped", ir.DataType.FLOAT, (count, hidden), rows, "read from the bundle")
