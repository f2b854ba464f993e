"""Target-level ONNX files to HTP context binaries: one for many graphs with shared weights, or a twin of one.

    <graph>.onnx …  ──worker──▶  <name>.bin  +  <name>.<graph>.onnx  (an EPContext node that names graph and binary)

The compiler holds every weight of the graphs it shares at once: about 0.2 GB of RSS plus 4 to 6 bytes a weight.
A shared binary cannot be loaded on the host; a twin (one graph, nothing shared) can.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ....compiler.diagnostics.diagnostic import Diagnostic, EngineError, PlanError, fail
from ....compiler.emit.child_process import Child
from ....compiler.emit.fixed_addresses import of_one_length
from ....compiler.files.full_disk import writes
from ....compiler.files.scratch import scratch_folder, steady_parent
from .chip import Chip
from .context_binary import ContextInfo, GraphSpec, TensorSpec, start_worker, verify


@dataclass(frozen=True)
class Compiled:
    """What a compilation left: files, the name of each graph in the binary, what it cost."""

    binary: Path
    onnx: Mapping[str, Path]
    names: Mapping[str, str]  # our graph -> the engine's name for it
    info: ContextInfo
    seconds: float
    peak_rss: int
    reproducible: bool = False  # made at fixed addresses: the same graphs give the same bytes again


class Rejected(PlanError):
    """The nodes that the compiler does not take, each with `name`, `type` and `reason`."""

    nodes: Sequence[Mapping[str, str]] = ()


def compile_shared(
    folder: Path,
    graphs: Sequence[str],
    chip: Chip,
    destination: Path,
    name: str,
    child: Child | None = None,
    sparse: bool = False,
    others: Sequence[Chip] = (),
) -> Compiled:
    """Compile `folder/<graph>.onnx` into one binary `destination/<name>.bin`; nothing is left when it fails.

    `sparse`: with HTP's sparse store. `others`: further chips, of which the one graph is prepared in the same file.
    """
    with scratch_folder("qnn", steady_parent(folder)) as scratch:
        work = of_one_length(scratch)
        work.mkdir()
        _stage(folder, work)
        request = {key: value for key, value in asdict(chip).items() if key != "name"}
        if others:
            chips = (chip, *others)
            request |= {
                "soc_model": _listed(one.soc_model for one in chips),
                "arch": _listed(one.arch for one in chips),
            }
        share = len(graphs) > 1
        call = {"folder": str(work), "graphs": list(graphs), "share": share, "sparse": sparse, **request}
        if child is not None:
            return _made(work, graphs, (chip, *others), destination, name, call, child)
        # its results seem to hang on addresses: 46 compiles of one graph gave three binaries, 41, 3 and 2 times
        with start_worker(f"the HTP compiler for `{name}`", fixed=True) as own:
            made = _made(work, graphs, (chip, *others), destination, name, call, own)
            return replace(made, reproducible=own.fixed)


def _made(
    work: Path,
    graphs: Sequence[str],
    chips: Sequence[Chip],
    destination: Path,
    name: str,
    call: Mapping[str, Any],
    child: Child,
) -> Compiled:
    """Let `child` compile, and read back what lies on the disk then: a process costs as much as a small compile."""
    answer = child.call("compile", **call)
    if "rejected" in answer:
        raise _refusal(answer, chips[0])
    return _collect(work, graphs, chips, destination, name, answer, child)


def _listed(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


def compile_twin(
    folder: Path, graph: str, chip: Chip, destination: Path, child: Child | None = None, sparse: bool = False
) -> Compiled:
    """The unshared form of one graph, the only one that runs here."""
    return compile_shared(folder, [graph], chip, destination, graph, child, sparse)


def _stage(folder: Path, work: Path) -> None:
    """Link the sources into the scratch folder: the engine hashes paths, so it sees the same ones every time."""
    for path in folder.iterdir():
        try:
            os.link(path, work / path.name)
        except OSError:  # another file system
            with writes(work / path.name):
                shutil.copy(path, work / path.name)


def _collect(
    work: Path,
    graphs: Sequence[str],
    chips: Sequence[Chip],
    destination: Path,
    name: str,
    answer: Mapping[str, Any],
    child: Child,
) -> Compiled:
    import onnx

    models = {graph: onnx.load(work / f"{graph}_ctx.onnx", load_external_data=False) for graph in graphs}
    nodes = {graph: context_node(graph, model) for graph, model in models.items()}
    names = {graph: _attribute(node, "partition_name").s.decode() for graph, node in nodes.items()}
    made = {_attribute(node, "ep_cache_context").s.decode() for node in nodes.values()}
    if len(made) != 1:
        fail("E0612", f"the engine wrote {len(made)} binaries for `{name}`, expected one", kind=EngineError)
    binary = work / made.pop()
    expected = {names[graph]: interface(model) for graph, model in models.items()}
    info, *_ = [verify(binary, expected, chip, len(graphs) > 1, child) for chip in chips]
    destination.mkdir(parents=True, exist_ok=True)
    final = destination / f"{name}.bin"
    written = [final]
    try:
        for graph, model in models.items():
            _attribute(nodes[graph], "ep_cache_context").s = final.name.encode()
            _tidy(model)
            path = destination / (f"{name}.{graph}.onnx" if len(graphs) > 1 or name != graph else f"{graph}.onnx")
            written.append(path)
            with writes(path):
                path.write_bytes(model.SerializeToString(deterministic=True))
        with writes(final):
            shutil.move(binary, final)
    except BaseException:
        for path in written:
            with suppress(FileNotFoundError):
                path.unlink()
        raise
    onnx_files = dict(zip(graphs, written[1:], strict=True))
    return Compiled(final, onnx_files, names, info, answer["seconds"], answer["peak_rss"])


def context_node(graph: str, model: Any) -> Any:
    """The one EPContext node that `model`, the compiler's output for `graph`, consists of; E0612 otherwise."""
    nodes = list(model.graph.node)
    if len(nodes) != 1 or nodes[0].op_type != "EPContext":
        found = ", ".join(sorted({node.op_type for node in nodes})) or "nothing"
        fail(
            "E0612",
            f"graph `{graph}` was not compiled as a whole: {found} came back beside the context",
            kind=EngineError,
        )
    return nodes[0]


def _attribute(node: Any, name: str) -> Any:
    return next(attribute for attribute in node.attribute if attribute.name == name)


def _tidy(model: Any) -> None:
    """Keep the opsets an EPContext model needs; the engine lists all it knows, in an order of its own."""
    kept = sorted((o.domain, o.version) for o in model.opset_import if o.domain in ("", "com.microsoft"))
    del model.opset_import[:]
    for domain, version in kept:
        model.opset_import.add(domain=domain, version=version)


def interface(model: Any) -> GraphSpec:
    """The tensors at the boundary of an ONNX model, as a context binary should report them."""
    return GraphSpec(_specs(model.graph.input), _specs(model.graph.output))


def _specs(values: Any) -> tuple[TensorSpec, ...]:
    import onnx

    return tuple(
        TensorSpec(
            value.name,
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
        )
        for value in values
    )


def _refusal(answer: Mapping[str, Any], chip: Chip) -> Rejected:
    made = Rejected(*(_refused_node(node, chip) for node in answer["rejected"]))
    made.nodes = answer["rejected"]
    return made


def _refused_node(node: Mapping[str, str], chip: Chip) -> Diagnostic:
    """`layers.0.self_attn.attention/scores` came from the node before the slash, which is what a plan can name."""
    source = node["name"].partition("/")[0]
    reason = f": {node['reason']}" if node["reason"] else ""
    return Diagnostic(
        "E0620",
        f"the HTP compiler does not take the `{node['type']}` that `{source}` lowers to on v{chip.arch}{reason}",
        help=f'`place (device = cpu) on "{source}"` takes it off the NPU; for a linear, another weight format may do',
    )
