"""A module whose graph is an exported decoder, as the decoder that edgec builds of it; else why it is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ....ir.module import MAIN, Module
from ...hf.decoder_graph import build
from .masks import windows
from .plain_ops import with_plain_ops
from .rebuild import architecture, weights
from .recognise import looks_like_decoder, recognise
from .walk import Declined


def as_decoder(module: Module, file: Path) -> tuple[Module, str | None]:
    """(the decoder, None) or (`module` as it is, why it is no decoder that edgec builds).

    The decoder keeps the graph it was read from as `original`: whoever compiles it proves the two equal first. The
    reason is None for a graph that does not look like a decoder at all.
    """
    if not looks_like_decoder(module.main.graph):
        return module, None
    try:
        original = with_plain_ops(module.main)
        found = recognise(original.graph)
        shown = windows(original, found, module.context)
        arch = architecture(found, shown, file.parent).within(module.context)
        made = build(arch, weights(found, arch, file), module.context)
    except Declined as reason:
        return module, str(reason)
    except (
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as problem:  # of a hostile file
        return module, f"its numbers make no decoder: {type(problem).__name__}"
    made.graph.name = module.name
    return replace(module, graphs={MAIN: made}, arch=arch, original=original), None
