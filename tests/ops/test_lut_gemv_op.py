"""`ai.edgec::LutGemv` and `ai.edgec::LutDequant` held to their definitions."""

from __future__ import annotations

import pytest
from edgec.compiler.ir.ops.lut_dequant import LutDequant
from edgec.compiler.ir.ops.lut_gemv import LutGemv
from edgec.compiler.pipeline.op_check import check_op


@pytest.mark.parametrize("definition", [LutGemv(), LutDequant()], ids=lambda one: one.name)
def test_the_definition_holds(definition):
    check_op(definition)
