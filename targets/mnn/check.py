"""What the plan's checker says about a deploy to MNN."""

from __future__ import annotations

from pathlib import Path

from ...compiler.diagnostics.diagnostic import Diagnostic, Label, Span


def no_tokenizer(folder: Path, at: Span | None = None) -> Diagnostic:
    """MNN's LLM engine reads text itself, with a tokenizer made from the model's own."""
    message = f"`{folder}` has no `tokenizer.json`, which an MNN-LLM bundle is made from"
    help = "save the model's tokenizer there with transformers, or deploy it `as ort`"
    return Diagnostic("E0705", message, Label(at) if at else None, help=help)
