"""What the manifest says of the parts in a context binary: graphs, tensors, whose lowering, libraries, the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ...compiler.ir import kv_names
from ...compiler.ir.activation_encodings import Encoding
from .htp.chip import Chip, tool_versions
from .htp.compile import Compiled
from .htp.context_binary import TensorSpec, check_encodings, read
from .htp.engine_options import option_rows

if TYPE_CHECKING:
    from ...compiler.emit.target import EmitJob
    from .lower.lowering import Lowered

KV = {
    "dtype": "float16",
    "layout": {
        "key": ["kv_heads", "batch", "head_dim", "position"],
        "value": ["kv_heads", "batch", "position", "head_dim"],
    },
    "capacity": "context - tokens",
    "rollback": "positions at or after the accepted length are masked and overwritten",
    "between_buckets": "copy",
    "unused": "anything: scores are clipped to +-60 before the mask of -1000 is added",
}


def part_entry(
    job: EmitJob,
    names: Mapping[str, str],
    compiled: Compiled,
    lowered: Mapping[str, Lowered],
    key: str,
    chip: Chip,
    sparse: tuple[int, int] | None,
) -> dict[str, Any]:
    """The manifest's entry of one part; `sparse`: a graph's bytes without and with the sparse store it is made with.

    `lowered`: every graph of the binary, which lie in the cache under `key`.
    """
    graphs = {}
    for bucket, name in names.items():
        spec, encodings = compiled.info.graphs[compiled.names[name]], lowered[name].encodings
        check_encodings(compiled.binary.name, (*spec.inputs, *spec.outputs), encodings)
        graphs[bucket] = {
            "graph": compiled.names[name],
            "file": compiled.onnx[name].relative_to(job.directory).as_posix(),
            "inputs": [_tensor(tensor, encodings) for tensor in spec.inputs],
            "outputs": [_tensor(tensor, encodings) for tensor in spec.outputs],
            "details": {"target_graph": name},
        }
    precision = "fp16" if not any(lowered[name].encodings for name in names.values()) else "integers"
    details = {"twins": key, "chip": asdict(chip), "qnn_build": compiled.info.build, "precision": precision}
    details["reproducible"] = compiled.reproducible
    own = (
        compiled.info if compiled.info.soc_model == chip.soc_model else read(compiled.binary, soc_model=chip.soc_model)
    )
    details["options"] = option_rows(chip, own, len(lowered) > 1)
    return {
        "model": job.module.name,
        "device": "npu",
        "target": "qnn",
        "file": compiled.binary.relative_to(job.directory).as_posix(),
        "graphs": graphs,
        "details": details | ({"sparse_store": True, "sparse_bytes": list(sparse)} if sparse else {}),
    }


def _tensor(spec: TensorSpec, encodings: Mapping[str, Encoding]) -> dict[str, Any]:
    made: dict[str, Any] = {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
    if spec.name in encodings:
        encoding = encodings[spec.name]
        made["quantization"] = {"scale": encoding.scale, "zero_point": encoding.zero_point}
    return made


def libraries(chips: Sequence[Chip], build: str, genie: bool) -> list[dict[str, str]]:
    """What a phone needs beside its own libcdsprpc.so to load the binary; `arch`: on phones with this NPU.

    `build`: of the QNN that made the binary (`v2.51.0.…`): a phone needs this one or a later one.
    """
    version = ".".join(build.removeprefix("v").split(".")[:3])
    sdk = {"engine": "qnn", "version": version, "from": f"QAIRT SDK {version}, lib/aarch64-android"}
    rows = [
        {"file": "libQnnHtp.so", "why": "the HTP backend", **sdk},
        {"file": "libQnnSystem.so", "why": "reads the context binary", **sdk},
    ]
    for arch in dict.fromkeys(chip.arch for chip in chips):
        stub = {"file": f"libQnnHtpV{arch}Stub.so", "why": "talks to the NPU", **sdk}
        skel = {"file": f"libQnnHtpV{arch}Skel.so", "why": "runs on the NPU; ADSP_LIBRARY_PATH points at its folder"}
        place = f"QAIRT SDK {version}, lib/hexagon-v{arch}/unsigned"
        rows += [{**row, "arch": f"v{arch}"} for row in (stub, {**sdk, **skel, "from": place})]
    rows += _of_onnx_runtime()
    if genie:
        why = "Qualcomm's runtime for language models, where that is used"
        rows.append({"file": "libGenie.so", "why": why, "optional": "true", **sdk})
    return rows


def _of_onnx_runtime() -> list[dict[str, str]]:
    """What opens the binary's EPContext models, as `device/runner.cc` does."""
    tools, why = tool_versions(), "opens the binary where ONNX Runtime runs the model, as edgec-runner does"
    made, provider = tools["onnxruntime"], tools["onnxruntime-qnn"]
    rows = [
        ("libonnxruntime.so", made, f"Maven com.microsoft.onnxruntime:onnxruntime-android:{made}, jni/arm64-v8a"),
        ("libonnxruntime_providers_qnn.so", provider, f"Maven com.qualcomm.qti:onnxruntime-android-qnn:{provider}"),
    ]
    return [
        {"file": file, "engine": "ort", "version": version, "from": source, "why": why, "optional": "true"}
        for file, version, source in rows
    ]


def lowered_by(names: Mapping[str, str], proven: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Whose lowering a part's graphs are, and what proved them."""
    own = {bucket: proven[name] for bucket, name in names.items() if name in proven}
    if not own:
        return {"lowering": "edgec"}
    integers = any(facts["arithmetic"] == "integers" for facts in own.values())
    return {"lowering": "engine", "proof": own} | ({"precision": "integers"} if integers else {})


def add_part(parts: dict[str, dict[str, Any]], name: str, entry: dict[str, Any], chip: Chip, several: bool) -> None:
    """Put a part's entry for one chip into the manifest: the first one's is the part's own, `chips` has all."""
    own = parts.setdefault(name, {**entry, "chips": {}} if several else entry)
    if several:
        files = {
            bucket: {key: graph[key] for key in ("graph", "file", "details")}
            for bucket, graph in entry["graphs"].items()
        }
        own["chips"][chip.name] = {"file": entry["file"], "graphs": files, "details": entry["details"]}


def kv_layout(compiled: Sequence[Compiled]) -> dict[str, Any]:
    """The cache's layout, with the type it has in the graphs; nothing where no part holds one."""
    graphs = (graph for context in compiled for graph in context.info.graphs.values())
    held = [spec for graph in graphs for spec in graph.inputs if kv_names.is_cache(spec.name)]
    if not held:
        return {}
    kv = {**KV, "dtype": held[0].dtype}
    if held[0].dtype != "float16":
        kv["unused"] = "anything: integers cannot leave the range of the scores, and the mask lies below it"
    return kv
