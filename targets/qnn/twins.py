"""What runs on this machine in the place of a binary whose graphs share weights, which no host can load.

    <cache>/qnn-target/<digest>/<graph>.onnx + data    the graphs that the HTP compiler was given
    <cache>/qnn-twin/<digest>/                         one of them compiled alone, made when something runs it

A compile leaves the first; elsewhere they are made again of what the bundle carries (`carried_graphs.py`), which has to
give the digest that the manifest names.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...compiler.diagnostics.diagnostic import EngineError, fail
from ...compiler.diagnostics.wording import join_or
from ...compiler.emit.child_process import Child
from ...compiler.files import cache
from ...compiler.files.full_disk import writes
from ...compiler.ir.save import save_graphs
from .call_time import remember
from .carried_graphs import DATA, ReadBack, archive_of, unpack
from .htp.chip import Chip, tool_versions
from .htp.compile import compile_twin
from .htp.emulator import QnnSession, open_shared
from .lower.lowering import Lowered
from .oracle_graph import OracleGraph

TARGET_KIND, TWIN_KIND = "qnn-target", "qnn-twin"
_KEY = re.compile(r"[0-9a-f]{64}")
_AGAIN = "copy the bundle again, or compile the plan again"


def store_targets(graphs: Mapping[str, Lowered]) -> str:
    """Put the target-level graphs with their weights, each once, into the cache; returns the entry's key."""
    with cache.scratch(TARGET_KIND) as work:
        save_graphs({name: lowered.model for name, lowered in graphs.items()}, work, DATA)
        key = _digest(work)
        _keep(work, key)
    return key


def restore(binary: Path, key: str) -> None:
    """Put the graphs of a bundle's binary into the cache, made of it and of what is carried beside it.

    E0614 if they are not those that the manifest names by `key`.
    """
    with cache.scratch(TARGET_KIND) as work:
        read = unpack(binary, work)
        if _digest(work) != key:
            fail("E0614", _difference(binary, read.wrong), help=_AGAIN, kind=EngineError)
        _keep(work, key)


def read_back(bundle: Path, part: Mapping[str, Any]) -> tuple[ReadBack | None, str | None]:
    """What of the weights of a part's binary is known, and what is wrong with those of the part.

    (None, None): the bundle carries nothing to compare them with.
    """
    binary, key = bundle / part["file"], part["details"]["twins"]
    if not archive_of(binary).is_file():
        return None, None
    held = [path.stat() for path in (binary, archive_of(binary))]
    read, same = _read(binary, key, tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in held))
    own = {graph["details"]["target_graph"] for graph in part["graphs"].values()}
    wrong = [(name, graphs) for name, graphs in read.wrong if own.intersection(graphs)]
    if same or (read.wrong and not wrong):
        return read, None
    return read, _difference(binary, wrong)


@lru_cache(maxsize=4)
def _read(binary: Path, key: str, _state: tuple[object, ...]) -> tuple[ReadBack, bool]:
    """The graphs made again of a binary, once for all its parts, and whether they are those that `key` names."""
    with cache.scratch(TARGET_KIND) as work:
        return unpack(binary, work), _digest(work) == key


def _difference(binary: Path, wrong: Sequence[tuple[str, tuple[str, ...]]]) -> str:
    """In words, in what the graphs made of a binary differ from those of the manifest."""
    if not wrong:
        return f"the graphs carried beside `{binary.name}` are not those that the manifest names"
    names = [f"`{name}`" for name, _ in wrong]
    shown = names[:3] + ([f"{len(names) - 3} more"] if len(names) > 3 else [])
    return f"`{binary.name}` holds other weights than the manifest's graphs: {join_or(shown, 'and')}"


def _digest(folder: Path) -> str:
    """What the graphs in `folder` with their weights are known by."""
    digest = hashlib.sha256()
    for path in [*sorted(folder.glob("*.onnx")), *folder.glob(DATA)]:
        digest.update(f"{path.name} {cache.digest_file(path)}\n".encode())
    return digest.hexdigest()


def _keep(work: Path, key: str) -> None:
    def fill(entry: Path) -> None:
        for path in work.iterdir():
            with writes(entry / path.name):
                shutil.move(path, entry / path.name)

    cache.make(TARGET_KIND, key, fill)


def open_twin(bundle: Path, part: Mapping[str, Any], bucket: str) -> QnnSession:
    """The unshared twin of one graph of a part on the emulator, compiled now if the cache lacks it.

    All graphs of the part's context, of other parts and buckets too, run in one emulator process.
    """
    details, graph = part["details"], part["graphs"][bucket]["details"]["target_graph"]
    chip = Chip(**details["chip"])
    what = f"`{part.get('name', graph)}`, bucket `{bucket}`"
    key, sparse = details["twins"], bool(details.get("sparse_store"))
    bundled_graph(bundle, part, bucket)
    session = open_shared(chip, key, lambda child: twin(key, graph, chip, child, sparse), what)
    session.timed = lambda seconds: remember(part, bucket, seconds)
    return session


def open_target_graph(bundle: Path, part: Mapping[str, Any], bucket: str) -> OracleGraph:
    """The graph that the HTP compiler was given for one part and bucket, in ONNX Runtime."""
    graph = bundled_graph(bundle, part, bucket)
    return OracleGraph(graph, f"`{part.get('name', graph.stem)}`, bucket `{bucket}`, in ONNX Runtime")


def bundled_graph(bundle: Path, part: Mapping[str, Any], bucket: str) -> Path:
    """The target-level graph of a part of a bundle, made again if the cache lacks it."""
    key, graph = part["details"]["twins"], part["graphs"][bucket]["details"]["target_graph"]
    if _KEY.fullmatch(key) is None:
        raise ValueError(f"`twins` is {key!r:.100}")
    binary = bundle / part["file"]
    if cache.find(TARGET_KIND, key) is None and archive_of(binary).is_file():
        restore(binary, key)
    return target_graph(key, graph)


def twin(key: str, graph: str, chip: Chip, child: Child | None = None, sparse: bool = False) -> Path:
    """The EPContext ONNX of the twin; `child` compiles it if the cache lacks it, otherwise a process of its own."""
    targets = target_graph(key, graph).parent
    text = f"{key} {graph} {asdict(chip)} {tool_versions()}" + (" sparse" if sparse else "")

    def fill(entry: Path) -> None:
        compile_twin(targets, graph, chip, entry, child, sparse)

    return cache.make(TWIN_KIND, hashlib.sha256(text.encode()).hexdigest(), fill) / f"{graph}.onnx"


def target_graph(key: str, graph: str) -> Path:
    """The target-level graph in the cache, as ONNX; E0613 if it is not there."""
    targets = cache.find(TARGET_KIND, key)
    if targets is None or not (targets / f"{graph}.onnx").is_file():
        place = cache.entry(TARGET_KIND, key)
        fail(
            "E0613",
            f"the bundle does not carry the target-level graph `{graph}`, and it is not in the cache ({place})",
            help="compile the plan again on this machine: the cache keeps what runs in place of the shared binary",
            kind=EngineError,
        )
    return targets / f"{graph}.onnx"
