"""The manifest: what a bundle says about itself, written once by a compile and read by every runtime.

Its shape is `manifest.schema.json` (JSON Schema draft 2020-12, `edgec schema` prints it); docs/bundle.md explains it.
`manifest.sha256` holds the manifest's own hash, the manifest the hash of every other file.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..diagnostics.diagnostic import fail
from ..diagnostics.nearest import nearest_help
from ..files import cache
from ..files.noted_digest import digest_of_finished
from ..ir import kv_names
from .consistency import contradictions, unlisted

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..ir.decoder_arch import DecoderArch

FORMAT, VERSION = "edgec.bundle", 1
MANIFEST, SEAL = "manifest.json", "manifest.sha256"
ACTIONS = "actions.html"  # when the compile's actions ran: it differs from run to run, and is not listed
SCHEMA = Path(__file__).with_name("manifest.schema.json")
_MOST_PROBLEMS = 8
_LONGEST = 160  # characters of a place or a sentence: both quote what the manifest holds


@dataclass(frozen=True, repr=False)
class Manifest:
    """A bundle's directory and its manifest. `data` is the JSON document; the properties only save typing."""

    bundle: Path
    data: dict[str, Any]

    def __repr__(self) -> str:
        return f"<manifest of {self.bundle}: {', '.join(self.models)}>"

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """Entries by model name: kind, parts or buckets, inputs and outputs."""
        return self.data["models"]

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """Entries by part name: model, target, files, graphs."""
        return self.data["parts"]

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """Entries by path inside the bundle: size in bytes and sha256."""
        return self.data["files"]

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """What the bundle was compiled from: path and sha256 of each source."""
        return self.data["inputs"]

    @property
    def speculation(self) -> dict[str, Any] | None:
        """The `speculate` line (draft, target, k, accept); None without one."""
        return self.data["speculation"]

    def model(self, name: str) -> dict[str, Any]:
        """The entry of a model; an unknown name is an error that lists the known ones."""
        if name not in self.models:
            listed = ", ".join(f"`{known}`" for known in self.models)
            help = nearest_help(name, self.models, "model") or f"its models: {listed}"
            fail("E0910", f"bundle `{self.bundle}` has no model `{name}`", help=help)
        return self.models[name]

    def part(self, name: str) -> dict[str, Any]:
        """The entry of a part with its name in it."""
        return {**self.parts[name], "name": name}

    def parts_of(self, model: str) -> list[str]:
        """Names of the parts of `model`, in the order they run."""
        return [name for name, part in self.parts.items() if part["model"] == model]

    def buckets(self, model: str) -> list[dict[str, Any]]:
        """The buckets of `model` (tokens, context, graphs); empty without `bucket` in its pipeline."""
        return self.model(model).get("buckets", [])

    def tokenizer(self, model: str) -> dict[str, Any] | None:
        """The tokenizer entry of `model`; None without one."""
        name = self.model(model).get("tokenizer")
        return None if name is None else self.data["tokenizers"][name]


def arch_entry(arch: DecoderArch, context: int) -> dict[str, Any]:
    """The manifest's form of a decoder's dimensions."""
    return {
        "family": arch.family,
        "layers": arch.layers,
        "heads": arch.heads,
        "kv_heads": arch.kv_heads,
        "head_dim": arch.head_dim,
        "hidden": arch.hidden,
        "intermediate": arch.intermediate,
        "vocab": arch.vocab,
        "context": context,
        "max_positions": arch.max_positions,
        "tied": arch.tied,
        "rope": {
            "kind": arch.rope.kind,
            "theta": arch.rope.theta,
            "inverse_frequencies": arch.inverse_frequencies(),
            "attention_factor": arch.rope.attention_factor,
        },
    }


def dtype_name(dtype: ir.DataType) -> str:
    """The manifest's word for an ONNX type: `float32` for FLOAT, `float64` for DOUBLE, else its own."""
    own = dtype.name.lower()
    return {"float": "float32", "double": "float64"}.get(own, own)


@functools.cache
def schema() -> dict[str, Any]:
    """The published JSON Schema."""
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


def problems(data: Any) -> list[str]:
    """Where `data` departs from the schema, or its values from each other."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    errors = sorted(Draft202012Validator(schema()).iter_errors(data), key=lambda error: list(map(str, error.path)))
    inmost = [best_match([error]) for error in errors[:_MOST_PROBLEMS]]  # not `anyOf` but what is wrong below it
    found = [f"{error.json_path[:_LONGEST]}: {_cut(error.message)}" for error in inmost if error is not None]
    return found or contradictions(data)[:_MOST_PROBLEMS]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def write_manifest(directory: Path, data: dict[str, Any]) -> Manifest:
    """Seal a bundle that is being made: hash its files into `data`, validate, write manifest and seal.

    `format`, `version` and `files` are filled in here. The last thing a compile writes into a bundle.
    """

    files = hash_files(directory, digest_of_finished)
    whole = {**copy.deepcopy(data), "format": FORMAT, "version": VERSION, "files": files}
    _say_sources(whole)
    if found := problems(whole) or unlisted(whole):
        raise ValueError("the manifest made here breaks its own schema:\n" + "\n".join(found))
    raw = (json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
    (directory / MANIFEST).write_bytes(raw)
    (directory / SEAL).write_text(f"{hashlib.sha256(raw).hexdigest()}  {MANIFEST}\n", encoding="ascii")
    return Manifest(directory, json.loads(raw))


def _say_sources(data: dict[str, Any]) -> None:
    """Let every input of a chain say who makes it: the runner (`feed`), the cache (`kv`), or a part before it."""
    for model in data["models"].values():
        cached = "kv" if model.get("kind") == "decoder" else "feed"
        for bucket in model.get("buckets", []):
            makers: dict[str, str] = {}
            for part in bucket["parts"]:
                graph = data["parts"][part]["graphs"][bucket["name"]]
                for spec in graph["inputs"]:
                    outside = cached if kv_names.is_cache(spec["name"]) else "feed"
                    spec["source"] = makers.get(spec["name"], outside)
                makers.update({spec["name"]: part for spec in graph["outputs"]})


def load_manifest(bundle: Path) -> Manifest:
    """Read and check a bundle's manifest; the other files are looked at by `file_hashes.check_files` and `verify`."""
    path = bundle / MANIFEST
    if not path.is_file():
        what = "does not exist" if not bundle.exists() else f"is not a bundle: it has no {MANIFEST}"
        fail("E0901", f"`{bundle}` {what}", help="give the directory that `edgec compile -o` made")
    raw = path.read_bytes()
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        fail("E0902", f"`{path}` is not JSON: {error}", help=AGAIN)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        fail("E0901", f"`{path}` is not the manifest of an edgec bundle", help=f'it lacks `"format": "{FORMAT}"`')
    if data.get("version") != VERSION:
        message = f"`{path}` is of version {data.get('version')}, this edgec reads version {VERSION}"
        fail("E0903", message, help="compile the plan again, or use the edgec that made the bundle")
    if found := problems(data) or unlisted(data):
        fail("E0902", f"`{path}` does not follow the schema: " + "; ".join(found), help=AGAIN)
    _check_seal(bundle, raw)
    return Manifest(bundle, data)


AGAIN = "compile the plan again; `edgec schema` prints the schema"


def _check_seal(bundle: Path, raw: bytes) -> None:
    seal = bundle / SEAL
    if not seal.is_file():
        fail("E0904", f"`{seal}` is missing, so nothing vouches for the manifest", help="compile the plan again")
    if seal.read_text(encoding="utf-8", errors="replace").split()[:1] != [hashlib.sha256(raw).hexdigest()]:
        fail(
            "E0904",
            f"`{bundle / MANIFEST}` has been changed: its hash is not that of {SEAL}",
            help="compile the plan again",
        )


def hash_files(directory: Path, digest: Callable[[Path], str] = cache.digest_file) -> dict[str, dict[str, Any]]:
    """Path -> sha256 and size of every file but the manifest and its seal, in the order of their names."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            raise ValueError(f"`{path}` is a symbolic link: a bundle holds files only")
        if path.is_file() and name not in (MANIFEST, SEAL, ACTIONS):
            found[name] = {"sha256": digest(path), "size": path.stat().st_size}
    return found
