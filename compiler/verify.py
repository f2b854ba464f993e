"""`edgec verify`: whether a bundle is what its manifest says, and how far it is from the float model.

1. every file there, of its size and hash, and no other        3. each part's error against the float module
2. every graph the manifest names in its binary                4. perplexity on a text, beside the float model's

When files differ nothing is loaded: engines take damaged weights without a word, or crash.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import sources as known_sources
from .bundle import hash_files
from .diagnostics import EdgecError
from .evaluate import module_perplexity, read_text
from .manifest import Manifest, load_manifest
from .tokenizers import Tokenizer

if TYPE_CHECKING:
    from .module import Module

# Read by every model when no text is given, to compare parts: any text will do, the same one always.
PROBE_TEXT = (
    """
def mean(values):
    \"\"\"The arithmetic mean of a list of numbers; an empty list has none.\"\"\"
    if not values:
        raise ValueError("mean of an empty list")
    total = 0.0
    for value in values:
        total += value
    return total / len(values)

The quick brown fox jumps over the lazy dog, while the dog counts from 1 to 10 and back again.
"""
    * 6
)


def verify_bundle(
    bundle: Path | str,
    text: Path | str | None = None,
    windows: int = 32,
    sources: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Problems, errors per part and, with `text`, perplexities. `sources`: model -> where its float model lies."""
    result: dict[str, Any] = {"ok": False, "problems": [], "parts": {}, "perplexity": {}, "baseline": {}}
    problems: list[str] = result["problems"]
    try:
        manifest = load_manifest(Path(bundle))
    except EdgecError as error:
        if error.diagnostics[0].code == "E0901":  # nothing there that could be verified
            raise
        problems.append(error.diagnostics[0].message)
        return result
    problems += file_problems(manifest)
    if not problems:
        content = None if text is None else read_text([Path(text)])
        for name in manifest.models:
            try:
                _verify_model(manifest, name, content, text, windows, dict(sources or {}), result)
            except EdgecError as error:
                problems += [f"model `{name}`: {diagnostic.message}" for diagnostic in error.diagnostics]
    result["ok"] = not problems
    return result


def file_problems(manifest: Manifest) -> list[str]:
    """Every file that is missing, changed or not the manifest's, by name."""
    found = hash_files(manifest.bundle)
    listed = manifest.files
    problems = [f"file `{name}` is missing" for name in listed if name not in found]
    problems += [f"file `{name}` is not in the manifest" for name in found if name not in listed]
    for name, facts in listed.items():
        if name in found and found[name]["size"] != facts["size"]:
            problems.append(f"file `{name}` has {found[name]['size']} bytes, the manifest says {facts['size']}")
        elif name in found and found[name]["sha256"] != facts["sha256"]:
            problems.append(f"file `{name}` has been changed: its sha256 is not the manifest's")
    return problems


def _verify_model(
    manifest: Manifest,
    name: str,
    content: str | None,
    text: Path | str | None,
    windows: int,
    sources: Mapping[str, str],
    result: dict[str, Any],
) -> None:
    from .runtime.engines import open_model, target_of
    from .runtime.perplexity import perplexity

    for part in manifest.parts_of(name):
        entry = manifest.part(part)
        result["parts"][part] = {"device": entry["device"], "graphs": len(entry["graphs"]), "max_error": None}
        result["problems"] += [
            f"part `{part}`: {what}" for what in target_of(entry).verify_part(manifest.bundle, entry)
        ]
    given = Path(sources[name]) if name in sources else None
    source = known_sources.find(name, manifest.inputs[name], given) if name in manifest.inputs else None
    module = None if source is None else _load(manifest, name, source)
    entry = manifest.tokenizer(name)
    tokenizer = None if entry is None else Tokenizer(manifest.bundle / entry["directory"], entry)
    ids = tokenizer.plain(PROBE_TEXT if content is None else content) if tokenizer else []
    if module is None:
        why = f"the float model `{manifest.inputs[name]['source']}` is not found; give it as --source {name}=PATH"
        for part in manifest.parts_of(name):
            result["parts"][part]["why"] = why
    else:
        _add_errors(manifest, name, module, ids, result)
    if text is None or tokenizer is None or manifest.model(name)["kind"] != "decoder":
        return
    model = open_model(manifest, name)
    try:
        result["perplexity"][name] = perplexity(model, ids, windows)
    finally:
        model.close()
    if module is not None:
        fitting = min(windows, len(ids) // 256)
        result["baseline"][name] = module_perplexity(module, [Path(text)], fitting, keep=True)


def _add_errors(manifest: Manifest, name: str, module: Module, ids: list[int], result: dict[str, Any]) -> None:
    from .verify_parts import compare

    for part, comparison in compare(manifest, name, module, ids).items():
        result["parts"][part].update(comparison.facts())
        result["problems"] += [f"part `{part}`: {what}" for what in comparison.far]


def _load(manifest: Manifest, name: str, source: Path) -> Module:
    entry = manifest.model(name)
    if manifest.inputs[name]["kind"] == "onnx":
        from .load_onnx import load_onnx

        return load_onnx(name, source, 0)
    from .load_hf import load_hf

    return load_hf(name, source, entry["arch"]["context"])
