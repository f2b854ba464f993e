"""A tokenizer.json made from the files of an older tokenizer, by the library that knows them: `transformers`.

    vocab.json + merges.txt         byte-level BPE (GPT-2, Qwen)
    tokenizer.model                 SentencePiece (Llama 2, Mistral, Gemma), or tiktoken's

Made once and kept in the cache, in a process of its own: `transformers` takes seconds to import. No code of the
model's runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from ...files import cache

_VERSION = 1
_REFUSED = "hf-text-refused"
_SECONDS = 300
_OLD = (("vocab.json", "merges.txt"), ("tokenizer.model",), ("spiece.model",), ("sentencepiece.bpe.model",))
_KEPT = ("generation_config.json", "chat_template.jinja")  # what the folder says besides
_SCRIPT = """
import sys
from transformers import AutoTokenizer
made = AutoTokenizer.from_pretrained(sys.argv[1], local_files_only=True, trust_remote_code=False)
if not hasattr(made, "backend_tokenizer"):
    raise SystemExit(f"{type(made).__name__} has no form as a tokenizer.json")
made.save_pretrained(sys.argv[2])
"""


def old_files(folder: Path) -> tuple[str, ...]:
    """The files of an older tokenizer in `folder`; empty without, or beside a tokenizer.json."""
    if (folder / "tokenizer.json").exists():
        return ()
    return next((names for names in _OLD if all((folder / name).is_file() for name in names)), ())


class _NoForm(Exception):
    """transformers has no tokenizer.json for these files; the text says why."""


def converted(folder: Path) -> Path | None:
    """The folder of the tokenizer.json made from the old files of `folder`; None where none can be (`why_not`)."""
    names = old_files(folder)
    if not names or find_spec("transformers") is None:
        return None
    key = _key(folder, names)
    if cache.read_note(_REFUSED, key) is not None:
        return None
    try:
        return cache.make("hf-text", key, lambda into: _convert(folder, into))
    except _NoForm as problem:
        with contextlib.suppress(OSError):
            cache.write_note(_REFUSED, key, str(problem))
        return None


def why_not(folder: Path) -> str | None:
    """Why the old files of `folder` give no tokenizer.json, and what to do; None where there are none."""
    names = old_files(folder)
    if not names:
        return None
    listed = " and ".join(f"`{name}`" for name in names)
    if find_spec("transformers") is None:
        return f"it can be made from {listed}: `pip install 'edgec[convert]'`"
    said = cache.read_note(_REFUSED, _key(folder, names)) or "it gave no reason"
    return f"transformers makes none from {listed}: {said}"


def _key(folder: Path, names: tuple[str, ...]) -> str:
    used = [*names, "config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", *_KEPT]
    held = [folder / name for name in used if (folder / name).is_file()]
    facts = [f"{path.name} {cache.digest_file(path)}" for path in held]
    return hashlib.sha256("\0".join([*facts, str(_VERSION)]).encode()).hexdigest()


def _convert(folder: Path, into: Path) -> None:
    words = [sys.executable, "-P", "-c", _SCRIPT, str(folder.absolute()), str(into)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=_SECONDS, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired:
        raise _NoForm(f"it took more than {_SECONDS} s") from None
    if done.returncode or not (into / "tokenizer.json").is_file():
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it gave no reason"]
        raise _NoForm(said[-1].partition(": ")[2][:200] or said[-1][:200])
    for name in _KEPT:
        if (folder / name).is_file():
            (into / name).write_bytes((folder / name).read_bytes())
    config = into / "tokenizer_config.json"
    if config.is_file():  # no path of this machine goes into a bundle
        given = json.loads(config.read_text(encoding="utf-8"))
        gone = ("name_or_path", "local_files_only", "is_local")
        config.write_text(json.dumps({k: v for k, v in given.items() if k not in gone}, indent=2), encoding="utf-8")
