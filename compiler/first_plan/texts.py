"""Texts for a first plan: what solvers may read, and what perplexity is measured on, which is another.

Of several texts the last is kept back for measuring, unless one was named for it.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from ..diagnostics.diagnostic import fail
from .found_model import FoundModel
from .written_plan import Texts

_LENGTH = 256  # tokens of a window, of either kind
_SAMPLES, _WINDOWS = 128, 16  # as many as are taken of a long text


def read_texts(texts: Sequence[str], evaluation: Sequence[str], model: FoundModel) -> Texts:
    """How the texts are used, and how many windows they fill; E0450 for one that is not there."""
    if not texts and not evaluation:
        return Texts()
    if not model.reads_text:
        message = f"`{model.path}` reads no text: it has no `tokenizer.json`"
        fail("E0455", message, help="leave the texts out, or put the model's tokenizer into its folder")
    for text in (*texts, *evaluation):
        if not any(Path(path).is_file() for path in glob.glob(text, recursive=True)):
            fail("E0450", f"there is no text `{text}`", help="give a text file, or a glob of them in quotes")
    if len(texts) > 1 and not evaluation:
        texts, evaluation = texts[:-1], texts[-1:]
    length = min(_LENGTH, model.arch.max_positions) if model.arch is not None else _LENGTH
    samples = max(1, min(_SAMPLES, _windows(model, texts, length)))
    windows = min(_WINDOWS, _windows(model, evaluation, _LENGTH)) if length == _LENGTH else 0
    return Texts(tuple(texts), samples, length, tuple(evaluation) if windows else (), windows)


def _windows(model: FoundModel, texts: Sequence[str], length: int) -> int:
    """Windows of `length` tokens that the texts fill."""
    from ..oracle.text_perplexity import read_text, token_ids

    folder = model.source.tokenizer_folder(model.path)
    if not texts or folder is None:
        return 0
    files = [Path(path) for text in texts for path in sorted(glob.glob(text, recursive=True)) if Path(path).is_file()]
    return len(token_ids(folder, read_text(tuple(files)))) // length
