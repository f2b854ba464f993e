"""How often a target accepts what its draft proposes: measured on the plan's own text, kept in the cache.

    a = share of the text's positions where both float models rank the same token first

One pass of each model over the text's windows, no token is generated: what is accepted in a text of the models' own may
differ. `k = auto` goes by it once a compile of the pair has measured it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import cache
from .model_steps import load_model
from .remembered import model_parts

if TYPE_CHECKING:
    from ..plan.plan import Plan, Speculate

_KIND = "acceptance"
WINDOWS = 8


def known_acceptance(plan: Plan, line: Speculate) -> float | None:
    """What was measured of the pair on the plan's text; None: nothing yet, or the plan has no text."""
    key = _key(plan, line)
    text = None if key is None else cache.read_note(_KIND, key)
    try:
        found = json.loads(text) if text else None
    except ValueError:
        return None
    return float(found) if isinstance(found, (int, float)) and 0 <= found <= 1 else None


def measure_acceptance(plan: Plan, progress: Callable[[str], None]) -> None:
    """Measure the pair of a plan with `k = auto` whose acceptance is not known; nothing without a text."""
    for line in plan.speculates:
        key = _key(plan, line)
        if line.auto and key is not None and known_acceptance(plan, line) is None:
            progress(f"how often `{line.target}` accepts what `{line.draft}` proposes")
            measured = _measure(plan, line)
            if measured is not None:
                with contextlib.suppress(OSError):
                    cache.write_note(_KIND, key, json.dumps(measured))


def _texts(plan: Plan) -> Sequence[Path]:
    block = plan.evaluation or plan.calibration
    return () if block is None else block.text


def _key(plan: Plan, line: Speculate) -> str | None:
    if not _texts(plan):
        return None
    digest = hashlib.sha256()
    for name in (line.draft, line.target):
        for part in model_parts(plan.models[name].source):
            digest.update(part.encode())
    for path in _texts(plan):
        with contextlib.suppress(OSError):
            digest.update(cache.digest_file(path).encode())
    return digest.hexdigest()


def _measure(plan: Plan, line: Speculate) -> float | None:
    import numpy as np

    from ..oracle.oracle import DecoderOracle
    from ..oracle.text_perplexity import WINDOW, read_text, token_ids

    folder = plan.models[line.target].source.tokenizer_folder
    if folder is None:
        return None
    ids = token_ids(folder, read_text(_texts(plan)))
    whole = min(WINDOWS, len(ids) // WINDOW)
    if not whole:
        return None
    windows = np.asarray(ids[: whole * WINDOW], np.int32).reshape(whole, WINDOW)
    oracles = [DecoderOracle(load_model(plan.models[name])) for name in (line.draft, line.target)]
    vocab = min(oracle.vocab for oracle in oracles)
    same = [
        np.equal(*(oracle.batch_logits(window[None])[0, :, :vocab].argmax(axis=-1) for oracle in oracles)).mean()
        for window in windows
    ]
    return float(np.mean(same))
