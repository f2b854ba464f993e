"""`weights = auto` without `except`: an embedding has no inputs to measure, so it keeps its type, with a note."""

from __future__ import annotations

from edgec.compiler.ir.linears import linears
from edgec.compiler.ir.module import Module
from edgec.compiler.ir.weight_format import WeightFormat
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.passes.quantization.rewrite import measurable, quantize_graph


def test_an_embedding_is_left_out_with_a_note(draft: Module) -> None:
    scope, int4 = Scope(), WeightFormat(4, 32, True)
    chosen = dict.fromkeys(measurable(draft, int4, scope), int4)
    assert "lm_head" in chosen
    assert "embed_tokens" not in chosen
    quantize_graph(draft.main.graph, draft, chosen.get, scope)
    formats = {linear.name: linear.quant for linear in linears(draft)}
    assert [name for name, quant in formats.items() if quant is None] == ["embed_tokens"]
    assert [skip.node for skip in scope.skips] == ["embed_tokens"]
    assert any(note.startswith("`embed_tokens` keeps its type") for note in scope.notes)
