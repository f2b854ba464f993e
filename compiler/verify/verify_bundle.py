"""`edgec verify`: whether a bundle is what its manifest says, and how far it is from the float model.

1. every file there, of its size and hash, and no other
2. every graph the manifest names in its binary
3. each part's error against the float model, and how much of it is the engine's and how much quantisation's
4. perplexity on a text, beside the float model's

When files differ nothing is loaded: engines take damaged weights without a word, or crash.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle.manifest import Manifest, hash_files, load_manifest
from ..diagnostics.diagnostic import EdgecError
from ..oracle.text_perplexity import module_perplexity, read_text
from ..packed.packed_bundle import runnable
from ..registry import find_source, source_names
from ..runtime.on_device import chosen_device, for_device
from ..runtime.text_process import BundledTokenizer
from ..sources import origin
from .part_check import PartOf, check_part, parts_of_chips

if TYPE_CHECKING:
    from ..ir.module import Module

REPORT = "report.html"
_DOUBTFUL = 0.5  # relative error of a part that is no longer taken for rounding by itself
_LOST = 2.0  # times the float model's perplexity: a model that has lost its text
_COMPARE = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt}
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
    device: str | None = None,
    look: Look | None = None,
) -> dict[str, Any]:
    """Problems, errors per part and, with `text`, perplexities. `sources`: model -> path of its float model.

    Of a bundle for several chips the binaries of all are read; what runs is the first chip's, or that of `device`.
    `look` looks into the parts before, of a bundle whose files are intact; what it leaves out is looked into here.
    """
    result: dict[str, Any] = {
        "ok": False,
        "problems": [],
        "parts": {},
        "perplexity": {},
        "baseline": {},
        "requires": [],
    }
    problems: list[str] = result["problems"]
    try:
        manifest = load_manifest(Path(bundle))
    except EdgecError as error:
        if error.diagnostics[0].code == "E0901":  # nothing there that could be verified
            raise
        problems.append(error.diagnostics[0].message)
        return result
    if device is not None:
        chosen_device(manifest, device)
    for name in sources or {}:
        manifest.model(name)
    problems += file_problems(manifest)
    restored = None
    if not problems:
        try:
            restored = runnable(manifest)
        except EdgecError as error:
            problems += [diagnostic.message for diagnostic in error.diagnostics]
    if restored is not None:
        given = None if text is None else Path(text)
        seen = {} if look is None else look(restored)
        problems += other_chips(restored, device, seen)
        problems += deployments(restored)
        chip = restored.data["devices"][0]["name"] if device is None else chosen_device(restored, device)
        own = {name: facts for (name, on), facts in seen.items() if on == chip or "chips" not in restored.part(name)}
        verification = _Verification(for_device(restored, device), given, windows, sources or {}, result, own)
        for name in manifest.models:
            try:
                verification.model(name)
            except EdgecError as error:
                problems += [f"model `{name}`: {diagnostic.message}" for diagnostic in error.diagnostics]
        result["requires"] = tested_requirements(manifest, result)
        problems += [
            f"the plan's `{row['line']}` does not hold: measured {row['text']}"
            for row in result["requires"]
            if not row["holds"]
        ]
        problems += unjudged(manifest, result)
    result["ok"] = not problems
    return result


def other_chips(
    manifest: Manifest, device: str | None, seen: Mapping[PartOf, dict[str, Any]] | None = None
) -> list[str]:
    """What is wrong with the binaries of the chips whose parts are not run; `seen`: what is known of them already."""
    built = [one["name"] for one in manifest.data["devices"]]
    run = built[0] if device is None else chosen_device(manifest, device)
    problems: list[str] = []
    for (name, chip), entry in parts_of_chips(manifest):
        if chip != run and "chips" in manifest.parts[name]:
            facts = (seen or {}).get((name, chip)) or check_part(manifest.bundle, entry)
            problems += [f"part `{name}` on {chip}: {problem}" for problem in facts["problems"]]
    return problems


def deployments(manifest: Manifest) -> list[str]:
    """What a runtime of an engine's own would take wrongly of a model, on any of the bundle's devices."""
    from ..runtime.engines import target_of

    problems: list[str] = []
    several = len(manifest.data["devices"]) > 1
    for device in (one["name"] for one in manifest.data["devices"]):
        own = for_device(manifest, device)
        for name, model in manifest.models.items():
            if model.get("deploy"):
                found = target_of(model["deploy"]).verify_deployment(own.bundle, own.data, name)
                where = f"model `{name}`" + (f" on {device}" if several else "")
                problems += [f"{where}: {what}" for what in found]
    return problems


def unjudged(manifest: Manifest, result: Mapping[str, Any]) -> list[str]:
    """Parts so far from the float model that only their text can tell a coarse quantisation from a wrong part."""
    found = []
    for part, facts in result["parts"].items():
        model, relative = manifest.parts[part]["model"], facts.get("relative_error") or 0.0
        ratio = result["perplexity"].get(model, 0.0) / (result["baseline"].get(model) or float("inf"))
        far = "".join(f" ({one})" for one in facts.get("far", []))
        if (relative > _DOUBTFUL or far) and not 0 < ratio < _LOST:
            judged = f"its perplexity is {ratio:.2f} of the float model's" if ratio else "`--text FILE` judges it"
            found.append(f"part `{part}` is {relative:.2f} relative from the float model{far}: {judged}")
    return found


def tested_requirements(manifest: Manifest, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The plan's `require` lines on what was measured now (sizes, perplexities on the text), and whether they hold."""
    found = []
    for row in manifest.data.get("measured", {}).get("requires", []):
        if "bound" not in row:  # a bundle of before these were kept
            continue
        model, _, name = row["subject"].rpartition(".")
        if row["subject"] == "bundle.size":
            value, base = float(sum(entry["size"] for file, entry in manifest.files.items() if file != REPORT)), 1.0
        elif name == "perplexity" and model in result["perplexity"]:
            value, base = result["perplexity"][model], result["baseline"].get(model, 0.0)
            if row["relative"] and not base:
                continue  # the float model is not there
        else:
            continue
        bound = row["bound"] * base if row["relative"] else row["bound"]
        shown = f"{value / 1e6:.2f} MB, {value:.0f} bytes" if row["subject"] == "bundle.size" else f"{value:.6g}"
        text = shown + (f", {value / base:.4f} * baseline" if row["relative"] else "")
        found.append({"line": row["line"], "value": value, "holds": _COMPARE[row["op"]](value, bound), "text": text})
    return found


def file_problems(manifest: Manifest) -> list[str]:
    """Every file that is missing, changed or not the manifest's, by name."""
    links = [path for path in sorted(manifest.bundle.rglob("*")) if path.is_symlink()]
    if links:
        return [f"`{path.relative_to(manifest.bundle).as_posix()}` is a symbolic link, not a file" for path in links]
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


Look = Callable[[Manifest], Mapping[PartOf, dict[str, Any]]]  # into the parts of a bundle, several at a time


class _Verification:
    """One run over the models of a bundle whose files are intact."""

    def __init__(
        self,
        manifest: Manifest,
        text: Path | None,
        windows: int,
        sources: Mapping[str, str],
        result: dict[str, Any],
        seen: Mapping[str, dict[str, Any]],
    ) -> None:
        self.manifest, self.text, self.windows, self.sources = manifest, text, windows, sources
        self.result, self.seen = result, seen
        self._float_files: dict[str, Sequence[Path]] = {}
        self._content = PROBE_TEXT if text is None else read_text([text])

    def model(self, name: str) -> None:
        self._look_into_parts(name)
        module = self._float_module(name)
        entry = self.manifest.tokenizer(name)
        ids: list[int] = []
        if entry is not None:
            with closing(BundledTokenizer(self.manifest.bundle / entry["directory"], entry)) as tokenizer:
                ids = tokenizer.plain(self._content)
        if module is not None:
            self._compare(name, module, ids)
        if self.text is not None and entry is not None and self.manifest.model(name)["kind"] == "decoder":
            self._perplexity(name, module, ids, self.text)

    def _look_into_parts(self, name: str) -> None:
        from ..runtime.engines import target_of

        for part in self.manifest.parts_of(name):
            entry = self.manifest.part(part)
            facts = {"device": entry["device"], "graphs": len(entry["graphs"]), "max_error": None}
            self.result["parts"][part] = facts
            target = target_of(entry)
            if instead := target.stands_in(entry):
                facts["ran"] = instead
            found = self.seen.get(part) or check_part(self.manifest.bundle, entry)
            if found["read_back"] is not None:
                facts["read_back"] = found["read_back"]
            self.result["problems"] += [f"part `{part}`: {problem}" for problem in found["problems"]]

    def _float_module(self, name: str) -> Module | None:
        """The float model the bundle was compiled from; None, and a note at each part, if it is not found."""
        entry = self.manifest.inputs.get(name)
        if entry is None:
            return None
        if entry["kind"] not in source_names():
            self._not_compared(name, f"the source `{entry['kind']}` that read the float model is not installed")
            return None
        given = Path(self.sources[name]) if name in self.sources else None
        reader = find_source(entry["kind"])()
        path = origin.find(name, entry, reader, given)
        if path is None:
            why = f"the float model `{entry['source']}` is not found; give it as --source {name}=PATH"
            self._not_compared(name, why)
            return None
        self._float_files[name] = reader.files(path)
        return reader.load(name, path, (self.manifest.model(name).get("arch") or {}).get("context", 0))

    def _not_compared(self, name: str, why: str) -> None:
        for part in self.manifest.parts_of(name):
            self.result["parts"][part]["why"] = why

    def _compare(self, name: str, module: Module, ids: list[int]) -> None:
        from .part_errors import compare

        for part, comparison in compare(self.manifest, name, module, ids).items():
            self.result["parts"][part].update(comparison.facts())
            self.result["problems"] += [f"part `{part}`: {what}" for what in comparison.problems]

    def _perplexity(self, name: str, module: Module | None, ids: list[int], text: Path) -> None:
        from ..runtime.engines import open_model
        from ..runtime.perplexity import WINDOW, perplexity

        model = open_model(self.manifest, name)
        try:
            self.result["perplexity"][name] = perplexity(model, ids, self.windows)
        finally:
            model.close()
        if module is not None:
            windows = min(self.windows, len(ids) // WINDOW)
            files = self._float_files[name]
            self.result["baseline"][name] = module_perplexity(module, [text], windows, files)
