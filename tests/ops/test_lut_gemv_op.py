"""`ai.edgec::LutGemv` held to its definition."""

from __future__ import annotations

from edgec.compiler.ir.ops.lut_gemv import LutGemv
from edgec.compiler.pipeline.op_check import check_op


def test_the_definition_holds():
    check_op(LutGemv())
