"""Names of graphs in the binaries of a model in shards: Genie runs those of one bucket in the order of their names.

    QNNExecutionProvider_QNNExecutionProvider_574725344428505641_1_0
                                              ^^^ the number of the shard takes the place of the first three digits

ONNX Runtime makes the names out of a hash. A name of the same length is written over each place where it stands in a
binary, which has no checksum of its own (those in QNN's container for several chips are none of its entries'), and into
the EPContext model; then the binary is read back for each chip.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ....compiler.diagnostics.diagnostic import EngineError, fail
from ....compiler.emit.child_process import Child
from ....compiler.files.full_disk import writes
from ..htp.compile import Compiled, context_node
from ..htp.context_binary import read

_DIGITS = re.compile(r"\d{9,}")  # of the hash; what is left of it keeps the names of buckets apart


def number_shards(shards: Sequence[Compiled], soc_models: Sequence[int], reader: Child) -> list[Compiled]:
    """The binaries of these chips with graphs whose names sort as the shards run; the files are changed in place.

    `soc_models`: several for a container. `reader`: the process that reads them back.
    """
    return [_renamed(one, number, soc_models, reader) for number, one in enumerate(shards, 1)]


def numbered(name: str, shard: int) -> str:
    """A graph's name with the number of its shard (1 to 999); E0612 where it holds no hash."""
    found = _DIGITS.search(name)
    if found is None:
        fail("E0612", f"the engine named a graph `{name}`, where a number was expected in it", kind=EngineError)
    at = found.start()
    return f"{name[:at]}{shard:03d}{name[at + 3 :]}"


def rename_graphs(binary: Path, names: Mapping[str, str]) -> None:
    """Write another name of the same length over each place where a graph's name stands in a context binary."""
    with binary.open("r+b") as file, mmap.mmap(file.fileno(), 0) as held:
        for old, new in ((old.encode(), new.encode()) for old, new in names.items()):
            at = held.find(old)
            while at >= 0:
                held[at : at + len(old)] = new
                at = held.find(old, at + len(old))


def _renamed(one: Compiled, shard: int, soc_models: Sequence[int], reader: Child) -> Compiled:
    names = {graph: numbered(name, shard) for graph, name in one.names.items()}
    if len(set(names.values())) < len(names):
        fail("E0612", f"two graphs of `{one.binary.name}` have one name", kind=EngineError)
    rename_graphs(one.binary, {one.names[graph]: name for graph, name in names.items()})
    for graph, path in one.onnx.items():
        _rename_partition(graph, path, names[graph])
    infos = [read(one.binary, reader, soc_model) for soc_model in soc_models]
    if any(set(info.graphs) != set(names.values()) for info in infos):
        fail("E0612", f"graphs of `{one.binary.name}` could not be named after their shard", kind=EngineError)
    return replace(one, names=names, info=infos[0])


def _rename_partition(graph: str, path: Path, name: str) -> None:
    import onnx

    model = onnx.load(path, load_external_data=False)
    (partition,) = (one for one in context_node(graph, model).attribute if one.name == "partition_name")
    partition.s = name.encode()
    with writes(path):
        path.write_bytes(model.SerializeToString(deterministic=True))
