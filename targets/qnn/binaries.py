"""Which context binaries a model becomes, and making them: one for each chip and each group of parts that share one.

    parts  --contexts-->  groups  --x chips-->  binaries  --a process each, `jobs` at a time-->  files

A binary that is one of several is kept in the cache as soon as it is made: a compile that is cut off goes on where it
was. One binary alone is kept where a compile keeps what it makes for later ones (`EmitJob.keep`).

    <cache>/qnn-context/<digest>/    a binary, its EPContext models, the archive of its graphs, and what was read back
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...compiler.diagnostics.diagnostic import EngineError, fail
from ...compiler.files import cache
from ...compiler.files.full_disk import writes
from .carried_graphs import archive_of, carry
from .htp.chip import Chip, tool_versions
from .htp.compile import Compiled, compile_shared
from .htp.context_binary import kept_info
from .twins import TARGET_KIND

CONTEXT_KIND = "qnn-context"
MOST_GRAPHS = 256  # of one context: 257 fail with QNN_CONTEXT_ERROR_GET_BINARY_FAILED, be they ever so small
_FACTS, _FORM = "compiled.json", 2  # what it says changes with its form


@dataclass(frozen=True)
class Binary:
    """A binary to be made of graphs that lie in `folder`, the cache's entry `key`; `chips`: several for a container."""

    chips: tuple[Chip, ...]
    key: str
    folder: Path
    graphs: tuple[str, ...]
    destination: Path
    name: str
    sparse: bool = False

    @property
    def digest(self) -> str:
        """What it is known by in the cache."""
        chips = [asdict(chip) for chip in self.chips]
        facts = [_FORM, self.key, self.graphs, chips, self.name, self.sparse, tool_versions()]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def contexts(graphs: Sequence[int], shards: Sequence[int] | None = None, alone: bool = False) -> list[list[int]]:
    """Which parts share a context: consecutive ones of one shard, `graphs` of them being the graphs of each part.

    All buckets of a part are in one context, where they share its weights. `shards`: the shard of each part that is to
    have a binary of its own; `alone`: every part is.
    """
    shares: list[list[int]] = []
    room, shard = 0, None
    for part, number in enumerate(graphs):
        own = None if shards is None else shards[part]
        if number > room or own != shard or alone:
            shares.append([])
            room, shard = MOST_GRAPHS, own
        shares[-1].append(part)
        room -= number
    return shares


def make_binaries(
    binaries: Sequence[Binary], jobs: int, say: Callable[[str], None], keep: bool = False
) -> list[Compiled]:
    """Compile all, up to `jobs` at a time, each in a process of its own; those in the cache are taken from there."""
    several = keep or len(binaries) > 1

    def one(binary: Binary) -> Compiled:
        where = "/".join(f"v{chip.arch}" for chip in binary.chips)
        say(f"{binary.name}: compiling {len(binary.graphs)} graphs for {where}")
        made, fresh = _kept(binary) if several else (_compile(binary, binary.destination), True)
        took = f"{made.seconds:.1f} s, compiler's peak {made.peak_rss / 1e6:.0f} MB" if fresh else "the cache"
        say(f"{binary.name}: {made.info.bytes / 1e6:.1f} MB for {where} {'in' if fresh else 'from'} {took}")
        return made

    with ThreadPoolExecutor(max(1, min(jobs, len(binaries)))) as pool:
        return list(pool.map(one, binaries))


def _compile(binary: Binary, destination: Path) -> Compiled:
    """Compile a binary, and put beside it what other machines need to run in its place, unless that takes too much."""
    chip, *others = binary.chips
    made = compile_shared(
        binary.folder, binary.graphs, chip, destination, binary.name, sparse=binary.sparse, others=others
    )
    carry(binary.folder, binary.graphs, made.binary)
    return made


def described(binary: Binary, group: int) -> dict[str, Any]:
    """A binary as JSON, without a place: what any process needs to make it from the graphs in the cache."""
    chips = [asdict(chip) for chip in binary.chips]
    facts = {"key": binary.key, "graphs": list(binary.graphs), "chips": chips, "name": binary.name}
    places = {"input": [TARGET_KIND, binary.key], "output": [CONTEXT_KIND, binary.digest]}
    return facts | {"sparse": binary.sparse, "group": group, **places}


def make_described(facts: Mapping[str, Any]) -> tuple[float, int]:
    """Make a binary that `described` wrote and leave it in the cache; its seconds and the compiler's peak in bytes.

    E0613 if the graphs are not in the cache.
    """
    folder = cache.find(TARGET_KIND, facts["key"])
    if folder is None:
        message = f"the graphs of `{facts['name']}` are not in the cache ({cache.entry(TARGET_KIND, facts['key'])})"
        fail("E0613", message, help="compile the plan again: its graphs are lowered again then", kind=EngineError)
    chips = tuple(Chip(**chip) for chip in facts["chips"])
    graphs = tuple(facts["graphs"])
    binary = Binary(chips, facts["key"], folder, graphs, folder, facts["name"], facts["sparse"])
    _, held = _entry(binary)
    return held["seconds"], held["peak_rss"]


def _kept(binary: Binary) -> tuple[Compiled, bool]:
    """The binary by way of the cache, and whether it was made now."""
    fresh = cache.find(CONTEXT_KIND, binary.digest) is None
    entry, facts = _entry(binary)
    binary.destination.mkdir(parents=True, exist_ok=True)
    final = binary.destination / f"{binary.name}.bin"
    onnx = {graph: binary.destination / name for graph, name in facts.pop("onnx").items()}
    for path in (final, *onnx.values(), archive_of(final)):
        if (entry / path.name).is_file():  # there may be no archive
            with writes(path):
                shutil.copyfile(entry / path.name, path)
    return Compiled(final, onnx, info=kept_info(facts.pop("info")), **facts), fresh


def _entry(binary: Binary) -> tuple[Path, dict[str, Any]]:
    """The cache's entry of a binary, made if there is none, and what its compile said of it."""

    def fill(entry: Path) -> None:
        made = _compile(binary, entry)
        facts = {
            "onnx": {graph: path.name for graph, path in made.onnx.items()}, "names": dict(made.names),
            "seconds": made.seconds, "peak_rss": made.peak_rss, "reproducible": made.reproducible,
            "info": asdict(made.info),
        }  # fmt: skip
        (entry / _FACTS).write_text(json.dumps(facts, sort_keys=True), encoding="utf-8")

    entry = cache.make(CONTEXT_KIND, binary.digest, fill)
    return entry, json.loads((entry / _FACTS).read_text(encoding="utf-8"))
