"""The format of a quantised weight: its words, its row in a manifest, its size, and that emitters read it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest
from edgec.compiler.ir.annotations import FORMAT
from edgec.compiler.ir.linears import as_quantized
from edgec.compiler.ir.weight_format import TWO_LEVEL, WeightFormat
from edgec.compiler.ir.weights import from_array
from edgec.targets.qnn.conformance.one_op_graphs_integers import linear
from edgec.targets.qnn.lower.lower_graphs import lower

WORDS = {
    "int4 block 32 symmetric": WeightFormat(4, 32, True),
    "int8 per channel asymmetric": WeightFormat(8, None, False),
    "int3 block 16 symmetric, stored in 4 bits": WeightFormat(3, 16, True, "gptq", stored=4),
    "int4 block 64 symmetric, two-level scales": WeightFormat(4, 64, True, scales=TWO_LEVEL, positive=True),
    "uint8 per channel symmetric": WeightFormat(8, None, True, signed=False),
}


@pytest.mark.parametrize("words", WORDS)
def test_a_format_has_one_spelling_which_a_manifest_keeps(words: str) -> None:
    format_ = WORDS[words]
    assert format_.describe() == words
    again = WeightFormat.of_entry(format_.entry())
    assert again is not None
    assert again.describe() == words


def test_rows_without_a_format_and_rows_of_older_bundles() -> None:
    row = {"dtype": "float16", "bits": None, "block": None, "symmetric": None}
    assert WeightFormat.of_entry(row) is None
    old = WeightFormat.of_entry({"dtype": "uint4", "block": 32, "symmetric": False})
    assert old == WeightFormat(4, 32, False)


@pytest.mark.parametrize(("dtype", "zeros"), [("INT8", False), ("UINT8", True), ("UINT8", False), ("INT4", True)])
def test_a_loaded_weight_has_the_format_its_tensors_show(dtype: str, zeros: bool) -> None:
    numpy = ir.DataType[dtype].numpy()
    q, scale = from_array("q", np.zeros((4, 32), numpy)), from_array("s", np.ones((4, 2), np.float32))
    tensors = [q, scale, *([from_array("z", np.zeros((4, 2), numpy))] if zeros else [])]
    node = ir.node("DequantizeLinear", [ir.Value(name=t.name, const_value=t) for t in tensors], {"block_size": 16})
    quant = as_quantized(node)
    assert quant is not None
    made = quant.format
    assert (made.bits, made.block, made.symmetric) == (int(dtype.removeprefix("U").removeprefix("INT")), 16, not zeros)
    assert made.signed == (not dtype.startswith("U"))


@pytest.mark.parametrize("marked", [True, False])
def test_qnn_reads_two_level_scales_from_the_format_not_from_the_numbers(marked: bool) -> None:
    """The same numbers, with and without what the pass knows about them."""
    model, _ = linear(4, 64, 32, "int4", "lpbq", 16, "uint16")
    if not marked:
        FORMAT.remove(model.graph.initializers["op.weight"].const_value)  # type: ignore[arg-type]
    (use,) = [use for use in lower({"g": model})["g"].uses if use.lowering == "u16.linear"]
    assert dict(use.shape)["format"] == ("lpbq" if marked else "block")


def test_a_format_needs_no_array_library() -> None:
    code = (
        "import sys, edgec.compiler.ir.weight_format; sys.exit(bool({'numpy', 'onnx_ir', 'onnx'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
