"""What a plan names outside itself: model folders and files, texts. Of a Hugging Face folder config.json and the
headers of the checkpoint are read; an ONNX file has to be loaded, so a plan with one takes longer to check."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..compiler.diagnostics.diagnostic import PlanError, Span
from ..compiler.diagnostics.nearest import nearest
from ..compiler.plan.plan import ModelDecl, Source
from . import ast
from .lets import Lets
from .loader import resolve_path
from .report import Report
from .settings import ModelBlock, Reader
from .source import what_is

if TYPE_CHECKING:
    from ..compiler.ir.decoder_arch import DecoderArch

_WILD = ("*", "?", "[")


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
    written = block.source.path
    path = resolve_path(written.value, written.span)
    before, arch, nodes = report.errors, None, ()
    weights: dict[str, tuple[int, int]] = {}
    if block.source.kind == "onnx":
        if what_is(path) == "file":
            nodes, weights = _onnx_names(model.name.text, path, written.span, report)
        else:
            _missing(path, written, "file", report)
    elif _is_folder(path, written, report):
        arch = _architecture(path, written.span, report)
        nodes, weights = (tuple(arch.node_names()), arch.weights()) if arch else ((), {})
        if block.context:
            _check_context(arch, block.context, path, _setting_span(model, "context"), report)
        else:
            report.error("E0205", f"{owner} needs `context`", model.name.span, help="write e.g. `context = 2048`")
    if report.errors > before:
        return None
    source = Source("onnx" if block.source.kind == "onnx" else "hf", path, written.value)
    return CheckedModel(ModelDecl(model.name.text, source, block.context, model.span), arch, nodes, weights)


def _onnx_names(name: str, path: Path, at: Span, report: Report) -> tuple[tuple[str, ...], dict[str, tuple[int, int]]]:
    """The names the loader gives an ONNX graph's nodes, which are not in the file, and its weights' shapes."""
    from ..compiler.ir.linears import float_shapes
    from ..compiler.sources.onnx.load_onnx import load_onnx

    try:
        module = load_onnx(name, path, 0)
    except PlanError as error:
        report.take(error, at)
        return (), {}
    return tuple(node.name for node in module.main.graph.all_nodes() if node.name), float_shapes(module)


def _is_folder(path: Path, written: ast.String, report: Report) -> bool:
    found = what_is(path)
    if found == "folder":
        return True
    if found == "file":
        help = '`hf` takes the folder that holds config.json; a file of ONNX is `onnx("…")`'
        report.error("E0302", f"`{written.value}` is a file, not a folder", written.span, help=help)
    else:
        _missing(path, written, "folder", report)
    return False


def _missing(path: Path, written: ast.String, kind: str, report: Report) -> None:
    try:
        near = nearest(path.name, (entry.name for entry in path.parent.iterdir()))
    except OSError:
        near = None
    help = f"there is `{near}` beside it" if near else "paths are relative to the file they are written in"
    report.error("E0301", f"there is no {kind} `{written.value}`", written.span, f"looked for {path}", help=help)


def _architecture(path: Path, at: Span, report: Report) -> DecoderArch | None:
    from ..compiler.sources.hf.checkpoint import find_tensors
    from ..compiler.sources.hf.read_decoder_arch import read_arch

    try:
        arch = read_arch(path)
        find_tensors(arch, path)
        return arch
    except PlanError as error:
        report.take(error, at)
        return None


def _check_context(arch: DecoderArch | None, context: int, path: Path, at: Span, report: Report) -> None:
    from ..compiler.sources.hf.read_decoder_arch import check_context

    if arch is not None:
        try:
            check_context(arch, context, path)
        except PlanError as error:
            report.take(error, at)


def _setting_span(model: ast.Model, key: str) -> Span:
    return next(setting.value.span for setting in model.settings if setting.key.text == key)


def find_texts(settings: Iterable[ast.Setting], lets: Lets, report: Report) -> tuple[Path, ...]:
    """The files of a block's `text`, globs expanded in sorted order."""
    value = next(setting.value for setting in settings if setting.key.text == "text")
    resolved = lets.resolve(value)
    items = resolved.items if isinstance(resolved, ast.ListLiteral) else (resolved,)
    found: list[Path] = []
    for item in items:
        if isinstance(item, ast.String):
            found += _expand(item, report)
    return tuple(dict.fromkeys(found))


def _expand(item: ast.String, report: Report) -> list[Path]:
    path = resolve_path(item.value, item.span)
    found = what_is(path)
    if found == "file":
        return [path]
    if found == "folder":
        help = f'name its files: `"{item.value.rstrip("/")}/*.txt"`'
        report.error("E0302", f"`{item.value}` is a folder, not a text", item.span, help=help)
    elif not any(sign in item.value for sign in _WILD):
        _missing(path, item, "file", report)
    else:
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        files = [file for file in files if what_is(file) == "file"]
        if not files:
            report.error("E0306", f"no file matches `{item.value}`", item.span, f"looked for {path}")
        return files
    return []
