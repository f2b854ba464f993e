"""The worker process of the qnn target: compiles with the HTP compiler, runs on the HTP emulator, reads contexts.

`python -m edgec.targets.qnn.htp.worker` answers the calls of `compile.py`, `emulator.py` and `context_binary.py`.
The engine prints to stdout and may segfault; neither reaches the parent.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ....compiler.emit.child_process import limit_memory, peak_rss, serve
from ....compiler.ir.onnx_runtime import session
from . import provider as htp
from .multi_soc import is_container, read_container
from .read_context import read_context
from .sparse_option import switch

_UNSUPPORTED = re.compile(r"Unsupported nodes in QNN EP: ((?:\{[^}]*\},? ?)+)")
_NODE = re.compile(r"\{ name: (?P<name>.*?), type: (?P<type>\w+) \}")
_REASON = re.compile(r"Validation FAILED.*?\n(?P<nodes>(?:\s*Operator type: .*\n)+)\s*REASON : (?P<reason>.*)")
_NOT_ASSIGNED = re.compile(r"\w+ node `[^`]*` will not be assigned to QNN EP\.?$")
_NODE_NAME = re.compile(r"Node name: (.*?) Node index")
_SESSIONS: dict[int, Any] = {}
_HANDLES = itertools.count()


def compile_graphs(
    folder: str,
    graphs: list[str],
    soc_model: int | str,
    arch: int | str,
    vtcm_mb: int,
    share: bool,
    sparse: bool = False,
) -> dict[str, Any]:
    """Compile `<graph>.onnx` of `folder`, in order, to `<graph>_ctx.onnx`; with `share`, into one binary.

    `sparse`: weights whose zeros fit HTP's patterns are stored so. `soc_model` and `arch` may be lists, with commas:
    a container for several chips is written.

    The engine hashes the model's path into graph names and bytes, so the paths it sees are relative and fixed:
    the folder becomes the working directory. Returns {"rejected": [...]} or {"seconds", "peak_rss"}.
    """
    os.chdir(folder)
    options = htp.provider_options(soc_model, arch, vtcm_mb)
    switch(Path(options["backend_path"]), sparse)
    start = time.monotonic()
    for index, graph in enumerate(graphs):
        entries = {"ep.share_ep_contexts": "1"} if share else {}
        if share and index == len(graphs) - 1:
            entries["ep.stop_share_ep_contexts"] = "1"
        mark = _log_size()
        try:
            _compile(graph, htp.session_options(options, entries))
        except Exception as error:
            rejected = _rejected(graph, options, mark)
            if not rejected:
                raise
            return {"graph": graph, "rejected": rejected, "message": str(error)}
    return {"seconds": time.monotonic() - start, "peak_rss": peak_rss()}


def _compile(graph: str, options: Any) -> None:
    compiler = htp.ort.ModelCompiler(options, f"{graph}.onnx", embed_compiled_data_into_model=False)
    compiler.compile_to_file(f"{graph}_ctx.onnx")


def _rejected(graph: str, options: dict[str, str], mark: int) -> list[dict[str, str]]:
    """The nodes the engine said it does not take, each with its reason from a second, talkative attempt."""
    found = _UNSUPPORTED.search(_log_since(mark))
    if found is None:
        return []
    mark = _log_size()
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    with suppress(Fail):  # the same refusal again, this time with reasons in the log
        _compile(graph, htp.session_options(options, severity=htp.VERBOSE))
    reasons = {
        name: _NOT_ASSIGNED.sub("", entry["reason"]).strip().rstrip(".")
        for entry in _REASON.finditer(_log_since(mark))
        for name in _NODE_NAME.findall(entry["nodes"])
    }
    nodes = [match.groupdict() for match in _NODE.finditer(found[1])]
    return [{**node, "reason": reasons.get(node["name"], "")} for node in nodes]


def open_session(path: str, soc_model: int, arch: int, vtcm_mb: int) -> int:
    """Load an EPContext ONNX on the emulator; returns its handle."""
    options = htp.session_options(htp.provider_options(soc_model, arch, vtcm_mb))
    handle = next(_HANDLES)
    _SESSIONS[handle] = htp.ort.InferenceSession(path, options)
    _SESSIONS[handle].disable_fallback()  # what fails here is not to be tried on the CPU
    return handle


def open_plain(path: str) -> int:
    """Load a target-level graph in ONNX Runtime on the CPU, unoptimised; returns its handle."""
    handle = next(_HANDLES)
    _SESSIONS[handle] = session(path)
    return handle


def close_session(handle: int) -> None:
    """Free what a handle stands for."""
    del _SESSIONS[handle]


def run_session(handle: int, feeds: dict[str, Any]) -> dict[str, Any]:
    """Outputs by name."""
    session = _SESSIONS[handle]
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def run_oracle(path: str, feeds: dict[str, Any]) -> dict[str, Any]:
    """Outputs of an ordinary ONNX on the CPU, unoptimised: what the emulator is compared with."""
    options = htp.ort.SessionOptions()
    options.log_severity_level = htp.ERROR
    options.intra_op_num_threads = 1
    options.graph_optimization_level = htp.ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = htp.ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def run_case(
    folder: str, oracle: str, soc_model: int, arch: int, vtcm_mb: int, feeds: dict[str, Any], half: dict[str, Any]
) -> dict[str, Any]:
    """Compile `case.onnx`, run it on the emulator with `half` and the oracle with `feeds`; both outputs."""
    made = compile_graphs(folder, ["case"], soc_model, arch, vtcm_mb, share=False)
    if "rejected" in made:
        return made
    handle = open_session("case_ctx.onnx", soc_model, arch, vtcm_mb)
    outputs = run_session(handle, half)
    close_session(handle)
    return {"outputs": outputs, "oracle": run_oracle(oracle, feeds)}


def run_forms(folder: str, soc_model: int, arch: int, vtcm_mb: int, feeds: dict[str, Any]) -> dict[str, Any]:
    """Compile and run `case.onnx` without and with the sparse store: outputs and bytes of both."""
    found: dict[str, Any] = {"bytes": []}
    for form, sparse in (("dense", False), ("sparse", True)):
        for path in Path(folder).glob("case_ctx*"):
            path.unlink()
        made = compile_graphs(folder, ["case"], soc_model, arch, vtcm_mb, share=False, sparse=sparse)
        if "rejected" in made:
            return made
        found["bytes"].append(sum(path.stat().st_size for path in Path(folder).glob("case_ctx*.bin")))
        handle = open_session("case_ctx.onnx", soc_model, arch, vtcm_mb)
        found[form] = run_session(handle, feeds)
        close_session(handle)
    return found


def _log_size() -> int:
    return os.fstat(2).st_size


def _log_since(mark: int) -> str:
    # the parent gave us a regular file as stderr, so what the engine printed can be read back
    return os.pread(2, _log_size() - mark, mark).decode("utf-8", "replace") if _log_size() > mark else ""


def describe(path: str, soc_model: int | None = None) -> dict[str, Any]:
    """Metadata of a context binary; of a container for several chips, that of one of them."""
    if is_container(Path(path)):
        return read_container(Path(path), soc_model)
    return read_context(Path(path))


if __name__ == "__main__":
    serve(
        {
            "compile": compile_graphs,
            "open": open_session,
            "open_plain": open_plain,
            "limit": limit_memory,
            "close": close_session,
            "run": run_session,
            "oracle": run_oracle,
            "describe": describe,
            "case": run_case,
            "forms": run_forms,
        }
    )
