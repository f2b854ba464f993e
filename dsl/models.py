"""What a plan names outside itself: models, which their source outlines without reading a weight, and texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..compiler.diagnostics.diagnostic import PlanError, Span
from ..compiler.plan.plan import ModelDecl, ModelSource
from ..compiler.registry import sources
from ..compiler.sources.source import Outline, Source, check_context
from . import ast
from .bounded_glob import MOST, BoundedGlob, TooMany
from .diagnostic_collector import DiagnosticCollector
from .lets import Lets
from .loader import resolve_path
from .plan_text import missing_help, what_is
from .settings import ModelBlock, Reader

if TYPE_CHECKING:
    from ..compiler.ir.decoder_arch import DecoderArch

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_WILD = ("*", "?", "[")
_SAID_OF = {"E0378": "shapes", "E0379": "sample"}  # errors of a source about a setting of the block
_ENDINGS = {"text": "txt", "sample": "npz"}


@dataclass(frozen=True)
class CheckedModel:
    """A declaration whose source could be read, with the names that globs match."""

    decl: ModelDecl
    arch: DecoderArch | None  # None: an ONNX graph
    nodes: tuple[str, ...]
    weights: Mapping[str, tuple[int, int]]  # linears and embeddings with float weights: name -> [N, K]


def check_model(model: ast.Model, reader: Reader) -> CheckedModel | None:
    """The declaration and what its source tells; None after an error."""
    report = reader.report
    owner = f"model `{model.name.text}`"
    values = reader.read(model.settings, ModelBlock, owner, model.name.span)
    if values is None:
        return None
    block = ModelBlock(**values[0])
    source, written = block.source.reader, block.source.path
    if block.shapes is not None:
        try:
            source = source.with_shapes(block.shapes)
        except PlanError as error:
            report.take(error, _setting_span(model, "shapes", written.span))
            return None
    before = report.errors
    if block.sample:
        try:
            source = source.with_samples(find_files(model.settings, "sample", reader.lets, report))
        except PlanError as error:
            report.take(error, _setting_span(model, "sample", written.span))
    source = source.with_context(block.context)
    path = resolve_path(written.value, written.span)
    if report.errors > before or not _is_there(source, path, written, report):
        return None
    before = report.errors
    outline = _outline(source, path, written.span, report, model)
    for warning in outline.warnings:
        report.take(PlanError(replace(warning, models=(model.name.text,))), written.span)
    if outline.arch is not None and not block.context:
        report.error("E0205", f"{owner} needs `context`", model.name.span, help="write e.g. `context = 2048`")
    elif outline.arch is not None:
        try:
            check_context(outline.arch, block.context, path)
        except PlanError as error:
            report.take(error, _setting_span(model, "context", written.span))
    if report.errors > before:
        return None
    found = ModelSource(source, path, written.value)
    decl = ModelDecl(model.name.text, found, block.context, model.span, outline.arch)
    return CheckedModel(decl, outline.arch, outline.nodes, outline.weights)


def _outline(source: Source, path: Path, at: Span, report: DiagnosticCollector, model: ast.Model) -> Outline:
    try:
        return source.outline(path)
    except PlanError as error:
        given = _SAID_OF.get(error.diagnostics[0].code)  # what the plan says of the model is wrong, not the model
        report.take(error, at if given is None else _setting_span(model, given, at))
        return Outline()


def _is_there(source: Source, path: Path, written: ast.String, report: DiagnosticCollector) -> bool:
    found = what_is(path)
    if found == source.accepts:
        return True
    if found is None:
        _missing(path, written, source.accepts, report)
        return False
    others = [other for other in sources().values() if other.accepts == found]
    help = "; ".join(f"`{one.word}` takes {one.takes}" for one in (source, *others))
    message = f"`{written.value}` is a {found}, not a {source.accepts}"
    report.error("E0302", message, written.span, help=help)
    return False


def _missing(path: Path, written: ast.String, kind: str, report: DiagnosticCollector) -> None:
    help = missing_help(path) or ""
    if kind == "folder" and _HUB_NAME.fullmatch(written.value) and not path.parent.exists():
        help += f"; a model of the Hub has to be downloaded first: `hf download {written.value} --local-dir FOLDER`"
    report.error("E0301", f"there is no {kind} `{written.value}`", written.span, f"looked for {path}", help=help)


def _setting_span(model: ast.Model, key: str, at: Span) -> Span:
    """Where the plan says `key` of a model; `at` where it is missing."""
    return next((setting.value.span for setting in model.settings if setting.key.text == key), at)


def find_files(settings: Iterable[ast.Setting], key: str, lets: Lets, report: DiagnosticCollector) -> tuple[Path, ...]:
    """The files of a block's `text` or `sample`, globs expanded in sorted order."""
    value = next(setting.value for setting in settings if setting.key.text == key)
    resolved = lets.resolve(value)
    items = resolved.items if isinstance(resolved, ast.ListLiteral) else (resolved,)
    found: list[Path] = []
    globs = BoundedGlob()
    for item in items:
        if isinstance(item, ast.String):
            found += _expand(item, key, globs, report)
    return tuple(dict.fromkeys(found))


def _expand(item: ast.String, noun: str, globs: BoundedGlob, report: DiagnosticCollector) -> list[Path]:
    path = resolve_path(item.value, item.span)
    found = what_is(path)
    if found == "file":
        return [path]
    if found == "folder":
        help = f'name its files: `"{item.value.rstrip("/")}/*.{_ENDINGS[noun]}"`'
        report.error("E0302", f"`{item.value}` is a folder, not a {noun}", item.span, help=help)
    elif found is not None:
        message = f"`{item.value}` is a {found}, not a {noun}"
        report.error("E0302", message, item.span, help="save what it gives as a file")
    elif not any(sign in item.value for sign in _WILD):
        _missing(path, item, "file", report)
    else:
        try:
            files = globs.files(path)
        except TooMany:
            message = f"`{item.value}` looks at more than {MOST} files and folders"
            help = f"name the folder: a glob is meant for the {noun}s of one, such as `calib/*.{_ENDINGS[noun]}`"
            report.error("E0310", message, item.span, f"looked for {path}", help=help)
            return []
        if not files:
            help = missing_help(path) or "paths are relative to the file they are written in"
            report.error("E0306", f"no file matches `{item.value}`", item.span, f"looked for {path}", help=help)
        return files
    return []
