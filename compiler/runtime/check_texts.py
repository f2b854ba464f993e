"""Whether the tokenizers and chat templates of a plan's models work, before anything is compiled with them.

Each is loaded, and its template rendered once, where it can be ended (`text_process`). What held is noted in the cache
under the files' digests, so that it costs its half second once.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..diagnostics.diagnostic import Diagnostic, EdgecError, Label
from ..files import cache
from ..sources.tokenizer.text_config import CONFIG, MAP, TEMPLATE, read_text_config
from .text_process import BundledTokenizer

if TYPE_CHECKING:
    from ..plan.plan import ModelDecl, Plan

_KIND, _HELD = "texts", "held"


def check_texts(plan: Plan) -> tuple[list[Diagnostic], list[Diagnostic]]:
    """(errors, warnings) about the texts of the models that the plan deploys."""
    errors: list[Diagnostic] = []
    warnings: list[Diagnostic] = []
    deployed = dict.fromkeys(deploy.model for deploy in plan.deploys)
    for model in (plan.models[name] for name in deployed if name in plan.models):
        folder = model.source.tokenizer_folder
        if model.arch is None or folder is None:
            continue
        if not (folder / "tokenizer.json").is_file():
            warnings.append(_no_tokenizer(model))
            continue
        try:
            template = _check(folder, model.name)
        except EdgecError as error:
            errors += [_at(found, model) for found in error.diagnostics]
            continue
        warnings += [_at(found, model) for found in template]
    return errors, warnings


def _check(folder: Path, name: str) -> Iterable[Diagnostic]:
    """Raise if the tokenizer cannot be used; W0331 if the chat template cannot."""
    held = [folder / name for name in ("tokenizer.json", CONFIG, MAP, TEMPLATE) if (folder / name).is_file()]
    key = hashlib.sha256(" ".join(f"{path.name} {cache.digest_file(path)}" for path in held).encode()).hexdigest()
    if cache.read_note(_KIND, key) == _HELD:
        return []
    tokenizer = BundledTokenizer(folder, {"bos": None, "eos": []})
    with contextlib.closing(tokenizer):
        tokenizer.plain("a text")
        if read_text_config(folder).template is not None:
            try:
                tokenizer.chat("Hello")
            except EdgecError as error:
                return [_broken_template(found, folder, name) for found in error.diagnostics]
    with contextlib.suppress(OSError):
        cache.write_note(_KIND, key, _HELD)
    return []


def _broken_template(found: Diagnostic, folder: Path, name: str) -> Diagnostic:
    """Its words go into the manifest, which holds no path of this machine."""
    message = found.message.replace(str(folder), name)
    help = "`edgec run --chat` will refuse it too; prompts without `--chat` are taken as they stand"
    return Diagnostic("W0331", message, help=help, severity="warning", models=(name,))


def _no_tokenizer(model: ModelDecl) -> Diagnostic:
    from ..sources.hf.convert_tokenizer import why_not

    message = f"`{model.name}` has no `tokenizer.json`: the bundle will take token ids, and no text"
    help = why_not(model.source.path) or "save the tokenizer beside the model if the bundle is to take prompts"
    return Diagnostic("W0332", message, Label(model.span), help=help, severity="warning", models=(model.name,))


def _at(found: Diagnostic, model: ModelDecl) -> Diagnostic:
    from dataclasses import replace

    return found if found.at is not None else replace(found, at=Label(model.span))
