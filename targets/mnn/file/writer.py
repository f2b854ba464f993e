"""A graph in MNN's own schema, and its way into a `.mnn` file.

MNN's schema as JSON is the only writer its wheel offers that keeps every bit of a float: the graph is written as
JSON, the converter's extension module turns it into a flatbuffer (in a child process: it prints, and it reports
success whatever happens), and the file is read back and compared op by op. Weights never pass through JSON: an op
that has some says where they lie in `<file>.mnn.weight` (`external`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....compiler.diagnostics.diagnostic import EngineError, fail
from ....compiler.emit.child_process import Child
from ....compiler.files.scratch import scratch_folder

VERSION = "3.6.1"  # the schema this writer was made for
_DTYPES = {"float32": ("DT_FLOAT", "float32s"), "int32": ("DT_INT32", "int32s")}

Json = dict[str, Any]


class Net:
    """An MNN graph under construction: tensors by name, ops in the order they run."""

    def __init__(self) -> None:
        self.tensors: list[str] = []
        self.ops: list[Json] = []
        self._index: dict[str, int] = {}
        self._reserved: set[str] = set()

    def reserve(self, names: Iterable[str]) -> None:
        """Keep `names` for the model's own tensors: what is made up beside them gets another name."""
        self._reserved.update(names)

    def free(self, name: str) -> str:
        """`name` for a made-up tensor, numbered where the model has a tensor of that name."""
        wished, number = name, 1
        while self._reserved and (name in self._reserved or name in self._index):
            number += 1
            name = f"{wished}#{number}"
        return name

    def tensor(self, name: str) -> int:
        """The index of a new tensor; a name is given once."""
        if name in self._index:
            raise ValueError(f"the MNN graph already has a tensor `{name}`")
        self._index[name] = len(self.tensors)
        self.tensors.append(name)
        return self._index[name]

    def add(
        self,
        kind: str,
        inputs: Sequence[int],
        outputs: Sequence[str],
        main: tuple[str, Json] | None = None,
        layout: str = "NCHW",
    ) -> list[int]:
        """Append an op named after its last output; `main` is its parameter table with the table's name."""
        made = [self.tensor(name) for name in outputs]
        op: Json = {
            "type": kind,
            "name": outputs[-1],
            "inputIndexes": list(inputs),
            "outputIndexes": made,
            "defaultDimentionFormat": layout,
        }
        if main is not None:
            op["main_type"], op["main"] = main
        self.ops.append(op)
        return made

    def one(self, kind: str, inputs: Sequence[int], output: str, *main: Any, layout: str = "NCHW") -> int:
        """`add` for an op with one made-up output; `main` is the name of its parameter table and its fields."""
        return self.add(kind, inputs, [self.free(output)], (main[0], main[1]) if main else None, layout)[0]

    def input(self, name: str, dims: Sequence[int], dtype: str) -> int:
        """A graph input; -1 is a dimension known at run time."""
        fields = {"dims": list(dims), "dtype": dtype, "dformat": "NCHW"}
        return self.add("Input", [], [name], ("Input", fields))[0]

    def const(self, name: str, value: np.ndarray) -> int:
        """A small constant inside the graph, float32 or int32, under a made-up name."""
        array = np.asarray(value)
        dtype, field = _DTYPES[array.dtype.name]
        fields = {
            "dims": list(array.shape),
            "dataFormat": "NCHW",
            "dataType": dtype,
            field: array.reshape(-1).tolist(),
        }
        return self.one("Const", [], name, "Blob", fields)

    def to_json(self, outputs: Sequence[str]) -> Json:
        """The graph as MNN's schema has it, in JSON form."""
        return {
            "bizCode": "edgec",
            "extraInfo": {"version": VERSION},
            "oplists": self.ops,
            "outputName": list(outputs),
            "preferForwardType": "CPU",
            "sourceType": "ONNX",
            "tensorName": self.tensors,
            "usage": "INFERENCE",
            "mnn_uuid": "edgec",  # the converter would draw a random one: equal inputs give equal bytes
        }

    def write(self, path: Path, outputs: Sequence[str], converter: Child | None = None) -> Json:
        """Write `path` and read it back; what MNN stored must be the ops and tensors of this graph. It is returned.

        `converter`: one that makes several files.
        """
        if converter is None:
            with start_converter(path.name) as own:
                return self.write(path, outputs, own)
        graph = self.to_json(outputs)
        with scratch_folder("mnn") as folder:
            source = folder / "graph.json"
            source.write_text(json.dumps(graph))
            convert(converter, ["-f", "JSON", "--modelFile", str(source), "--MNNModel", str(path)], path)
        stored = dump(path, converter)
        _compare(stored, graph, path)
        return stored


def dump(path: Path, converter: Child | None = None) -> Json:
    """The graph of a `.mnn` file as JSON. Floats come rounded to six digits: for structure, not for values."""
    with scratch_folder("mnn") as folder:
        out = folder / "dump.json"
        arguments = ["-f", "MNN", "--modelFile", str(path), "--JsonFile", str(out)]
        if converter is None:
            with start_converter(path.name) as own:
                convert(own, arguments, out)
        else:
            convert(converter, arguments, out)
        return json.loads(out.read_text(errors="replace"))


def convert(converter: Child, arguments: Sequence[str], made: Path) -> None:
    """Run the converter; it never reports a failure, so the file it should have made is what counts."""
    made.unlink(missing_ok=True)
    converter.call("convert", arguments=list(arguments))
    if not made.is_file() or made.stat().st_size == 0:
        fail("E0701", f"MNN's converter wrote no `{made.name}`", kind=EngineError)


def start_converter(what: str) -> Child:
    """A process that writes and reads `.mnn` files."""
    return Child("edgec.targets.mnn.run.convert_worker", what=f"MNN's converter writing `{what}`", timeout=600)


def _compare(stored: Json, graph: Json, path: Path) -> None:
    """The stored graph has the same ops on the same tensors, with the same places of weights."""
    if stored.get("tensorName") != graph["tensorName"] or stored.get("outputName") != graph["outputName"]:
        fail("E0701", f"`{path.name}` does not hold the tensors that were written", kind=EngineError)
    ours, theirs = [_shape_of(op) for op in graph["oplists"]], [_shape_of(op) for op in stored["oplists"]]
    for mine, other in zip(ours, theirs, strict=False):
        if mine != other:
            fail("E0701", f"`{path.name}` holds `{other}` where `{mine}` was written", kind=EngineError)
    if len(ours) != len(theirs):
        fail("E0701", f"`{path.name}` holds {len(theirs)} of the {len(ours)} ops written", kind=EngineError)


def _shape_of(op: Mapping[str, Any]) -> tuple[Any, ...]:
    external = (op.get("main") or {}).get("external") or []
    return (
        op["type"],
        op["name"],
        tuple(op.get("inputIndexes") or ()),
        tuple(op.get("outputIndexes") or ()),
        tuple(external),
    )
