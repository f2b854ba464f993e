"""Calibration windows: ids [samples, length] int32, cut from the plan's `calibration` text.

Each file is tokenised alone and the ids are joined in the order of the plan; the stream is cut into windows of
`length` tokens that do not overlap, and `seed` chooses and orders `samples` of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..diagnostics.diagnostic import PlanError, Span, fail
from ..files.plain_file import read_plain
from ..sources.tokenizer.tokenizer_file import open_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ..ir.module import Module
    from .calibration_text import Calibration

_BATCH = 1 << 18  # characters
_MOST_UNKNOWN = 0.1  # of the tokens; more, and the tokenizer was made for another kind of text


def windows(calibration: Calibration, module: Module) -> np.ndarray:
    """The windows for `module`, with its own tokenizer; every bad input is an error at the plan's line."""
    return windows_and_more(calibration, module, 0)[0]


def windows_and_more(calibration: Calibration, module: Module, more: int) -> tuple[np.ndarray, np.ndarray]:
    """The same windows, and up to `more` others, as many as the text has, that none of them overlaps."""
    source = _demand_text(calibration, module)
    at, vocab = calibration.span, module.arch.vocab if module.arch is not None else 0
    ids = _tokenise(calibration.text, _tokenizer(source, at), at)
    _check_ids(ids, vocab, source, at)
    samples, length = calibration.samples, calibration.length
    filled = _check_filled(len(ids), samples, length, at)
    made = choose(ids, min(filled, samples + more), length, calibration.seed, at)
    return made[:samples], made[samples:]


def _demand_text(calibration: Calibration, module: Module) -> Path:
    """The folder of the tokenizer of a decoder that windows of this length fit."""
    at = calibration.span
    if module.tokenizer_folder is None or module.arch is None:
        fail("E0455", f"`{module.name}` has no tokenizer: only decoders can be calibrated on text", at)
    if calibration.length > module.arch.max_positions:
        fail(
            "E0456",
            f"calibration windows of {calibration.length} tokens are longer than the {module.arch.max_positions} "
            f"positions of `{module.name}`",
            at,
            help=f"set `length` to at most {module.arch.max_positions}",
        )
    return module.tokenizer_folder


def check_text(calibration: Calibration, module: Module) -> None:
    """Every error of `windows` that does not need all of the text: reading stops where it fills the windows."""
    source = _demand_text(calibration, module)
    at, needed = calibration.span, calibration.samples * calibration.length
    vocab = module.arch.vocab if module.arch is not None else 0
    tokenizer, count = _tokenizer(source, at), 0
    for texts in _batches(_read(path, at) for path in calibration.text):
        ids = _ids(texts, tokenizer)
        _check_ids(ids, vocab, source, at)
        count += len(ids)
        if count >= needed:
            return
    _check_filled(count, calibration.samples, calibration.length, at)


def choose(ids: np.ndarray, samples: int, length: int, seed: int, at: Span | None = None) -> np.ndarray:
    """`samples` of the windows of `length` that the stream `ids` fills, in a random order."""
    filled = _check_filled(len(ids), samples, length, at)
    chosen = np.random.default_rng(seed).permutation(filled)[:samples]
    return ids[: filled * length].reshape(filled, length)[chosen].astype(np.int32)


def _check_filled(tokens: int, samples: int, length: int, at: Span | None) -> int:
    """How many windows the tokens fill; fewer than are asked for is E0452."""
    filled = tokens // length
    if filled < samples:
        fail(
            "E0452",
            f"the calibration text has {tokens:,} tokens, which fill {filled:,} windows of {length}; "
            f"{samples:,} are asked for",
            at,
            help=f"set `samples` to at most {filled}, or add text" if filled else "set a smaller `length`, or add text",
        )
    return filled


def digest(ids: np.ndarray) -> str:
    """What tells one set of windows from another."""
    return hashlib.sha256(repr(ids.shape).encode() + np.ascontiguousarray(ids, np.int32).tobytes()).hexdigest()


def _tokenizer(folder: Path, at: Span) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        fail("E0455", f"`{folder}` has no `tokenizer.json`, which calibration needs to read text", at)
    try:
        return open_tokenizer(path)
    except PlanError as error:
        fail("E0455", f"`{path}` cannot be read as a tokenizer: {error.diagnostics[0].message}", at)


def _tokenise(paths: Sequence[Path], tokenizer: Tokenizer, at: Span) -> np.ndarray:
    parts = [np.empty(0, np.int32)]
    for texts in _batches(_read(path, at) for path in paths):
        parts.append(_ids(texts, tokenizer))
    ids = np.concatenate(parts)
    unknown = getattr(tokenizer.model, "unk_token", None)
    number = tokenizer.token_to_id(unknown) if unknown else None
    if number is not None and len(ids) and (share := float(np.mean(ids == number))) > _MOST_UNKNOWN:
        fail("E0453", f"{share:.0%} of the calibration text are tokens that the tokenizer does not know", at)
    return ids


def _ids(texts: list[str], tokenizer: Tokenizer) -> np.ndarray:
    """The ids of all texts, taken at once: what else an encoding carries is many times their size."""
    made = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return np.concatenate([np.array(one.ids, np.int32) for one in made])


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts by the quarter of a million characters, which the tokenizer spreads over the cores."""
    held: list[str] = []
    for text in texts:
        if held and sum(map(len, held)) + len(text) > _BATCH:
            yield held
            held = []
        held.append(text)
    if held:
        yield held


def _read(path: Path, at: Span) -> str:
    try:
        raw = read_plain(path)
    except OSError as error:
        fail("E0450", f"calibration text `{path}` cannot be read: {error.strerror}", at)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        fail(
            "E0451",
            f"calibration text `{path}` is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}",
            at,
            help="convert it, e.g. with `iconv -t utf-8`, or take it out of `text`",
        )
    if not text.strip():
        fail("E0450", f"calibration text `{path}` is empty", at)
    return text


def _check_ids(ids: np.ndarray, vocab: int, folder: Path, at: Span) -> None:
    beyond = Counter(ids[ids >= vocab].tolist())
    if beyond:
        fail(
            "E0453",
            f"the tokenizer in `{folder}` makes token {max(beyond)}, the model has {vocab} embeddings",
            at,
            help="use the tokenizer that belongs to the model",
        )
