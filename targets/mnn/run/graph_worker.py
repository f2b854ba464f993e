"""The child process that runs plain `.mnn` files through MNN's Module API."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....compiler.diagnostics.diagnostic import EngineError, fail
from ....compiler.emit.child_process import limit_memory, serve

_open: dict[int, dict[str, Any]] = {}


def load(path: str, inputs: list[str], outputs: list[str], memory: str, threads: int) -> int:
    """Load a `.mnn` file; its number for `run`. `memory` is "low" (weights stay quantised) or "normal" (they are
    expanded at load).
    """
    import MNN
    from MNN import nn

    expr: Any = MNN.expr  # an extension module: its names are not known to a type checker
    memory_mode = {"low": expr.MemoryMode.Low, "normal": expr.MemoryMode.Normal}[memory]
    # without a runtime manager: one made by `create_runtime_manager` takes no notice of a memory mode
    module = nn.load_module_from_file(
        path, inputs, outputs, memory_mode=memory_mode, precision_mode=expr.PrecisionMode.High, thread_num=threads
    )
    handle = max(_open, default=-1) + 1
    _open[handle] = {"module": module, "inputs": inputs, "outputs": outputs, "expr": expr}
    return handle


def open_plain(path: str) -> int:
    """Open a graph of plain operators in ONNX Runtime, unoptimised; its number for `run`."""
    from ....compiler.ir.onnx_runtime import session

    handle = max(_open, default=-1) + 1
    _open[handle] = {"session": session(path)}
    return handle


def free(handle: int) -> None:
    """Forget a graph."""
    _open.pop(handle, None)


def run(handle: int, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name in the shapes MNN gives; it has no numbers but float32 and int32, which feeds are turned to."""
    state = _open[handle]
    if (session := state.get("session")) is not None:
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))
    expr = state["expr"]
    variables = []
    for name in state["inputs"]:
        array = feeds[name]
        floats = array.dtype.kind == "f"
        array = array.astype(np.float32) if floats else _narrow(name, array)
        kind = expr.float if floats else expr.int
        variables.append(expr.const(np.ascontiguousarray(array), list(array.shape), expr.NCHW, kind))
    answers = state["module"].onForward(variables)
    if len(answers) != len(state["outputs"]):
        fail("E0711", "MNN stops inside the graph and gives no outputs", kind=EngineError)
    made = {}
    for name, answer in zip(state["outputs"], answers, strict=True):
        answer = expr.convert(answer, expr.NCHW)
        made[name] = np.array(answer.read()).reshape(answer.shape) if 0 not in answer.shape else _empty(answer, expr)
    return made


def _empty(answer: Any, expr: Any) -> np.ndarray:
    """What MNN has no memory for, and fails to read."""
    return np.zeros(answer.shape, np.float32 if answer.dtype == expr.float else np.int32)


def _narrow(name: str, array: np.ndarray) -> np.ndarray:
    """Integers in the 32 bits that MNN has; E0923 if they do not fit."""
    narrow = array.astype(np.int32)
    if not np.array_equal(narrow, array):
        far = array[narrow != array].ravel()[0]
        fail("E0923", f"input `{name}` holds {far}, and MNN's integers have 32 bits")
    return narrow


if __name__ == "__main__":
    serve({"load": load, "run": run, "free": free, "open_plain": open_plain, "limit": limit_memory})
