"""Open what a bundle's manifest names on this machine, through the installed targets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..bundle.manifest import AGAIN, Manifest
from ..diagnostics.diagnostic import EdgecError, fail
from ..registry import find_target

if TYPE_CHECKING:
    from ..emit.engine_protocols import GraphSession, LanguageModel
    from ..emit.target import Target


def target_of(entry: dict[str, Any]) -> Target:
    """The target that made a part or a model, by the name in the manifest."""
    name = entry["target"]
    try:
        return find_target(name)()
    except KeyError:
        fail(
            "E0911",
            f"the bundle needs the target `{name}`, which is not installed",
            help="install the plug-in that made it",
        )


def open_graph(manifest: Manifest, part: str, bucket: str) -> GraphSession:
    """One graph of one part, ready to run."""
    entry = manifest.part(part)
    target = target_of(entry)
    with _read_by(target, f"part `{part}`"):
        return target.open_graph(manifest.bundle, entry, bucket)


def open_oracle(manifest: Manifest, part: str, bucket: str) -> GraphSession:
    """As `open_graph`, in ONNX Runtime where the part's own engine is slow on this machine."""
    entry = manifest.part(part)
    target = target_of(entry)
    with _read_by(target, f"part `{part}`"):
        return target.open_oracle(manifest.bundle, entry, bucket)


def open_reference(manifest: Manifest, part: str, bucket: str) -> GraphSession | None:
    """The graph as the passes left it, in plain operators; None where its target has no such thing at hand."""
    entry = manifest.part(part)
    target = target_of(entry)
    with _read_by(target, f"part `{part}`"):
        return target.open_reference(manifest.bundle, entry, bucket)


def open_model(manifest: Manifest, name: str, oracle: bool = False) -> LanguageModel:
    """A decoder as a language model: its own engine's, or a chain of its parts; `oracle`: as `open_oracle`."""
    from .chain import ChainModel

    entry = manifest.model(name)
    if entry["kind"] != "decoder":
        fail("E0918", f"model `{name}` is a plain graph, not a language model", help="run it with `--inputs FILE.npz`")
    if entry["engine"] == "chain":
        return ChainModel(manifest, name, open_oracle if oracle else open_graph)
    target = target_of(entry["deploy"])
    if entry["engine"] != target.engine:
        message = f"model `{name}` is for the engine `{entry['engine']}`, `as {target.name}` runs `{target.engine}`"
        fail("E0902", message, help=AGAIN)
    with _read_by(target, f"model `{name}`"):
        return target.open_model(manifest.bundle, {**entry, "name": name}, manifest.data)


@contextlib.contextmanager
def _read_by(target: Target, entry: str) -> Iterator[None]:
    """Whatever a target stumbles over in an entry that follows the schema is a fault of the entry, not of edgec."""
    try:
        yield
    except EdgecError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError) as error:
        message = f"the manifest's entry of {entry} is not as the target `{target.name}` writes it"
        fail("E0902", f"{message}: {type(error).__name__}: {error}", help=AGAIN)
