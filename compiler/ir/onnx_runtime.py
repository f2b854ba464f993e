"""ONNX Runtime, imported once and without its telemetry.

The wheel opens a telemetry socket and writes under the user's cache unless `ORT_DISABLE_TELEMETRY=1` is set
before the import; every import of onnxruntime in edgec goes through this module.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

__all__ = ["onnxruntime", "quiet_session", "session"]


def session(
    model: str | bytes,
    optimise: bool = False,
    libraries: Sequence[str] = (),
    threads: int = 0,
    quiet: bool = False,
    weights_in: str = "",
    once: bool = False,
) -> onnxruntime.InferenceSession:
    """Open `model` (a path or serialised bytes) on the CPU.

    As an oracle ONNX Runtime must not rewrite the graph: at its default level DequantizeLinear + MatMul was
    found up to 22.6 off. `optimise` is for engines that ship, not for oracles; so are `libraries`, paths of custom ops.
    `threads` 0: as many as the machine has cores. `quiet`: runs that fail are expected, and are not logged.
    `weights_in`: the folder of the external data of a model in bytes. `once`: for a run or two of small
    inputs: weights are not copied into the form that products are fastest with, and no memory is planned, which takes
    the square of the number of nodes (5 s of 7,600).
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4 if quiet else 3  # what fails is raised as well
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other work wants the cores too
    options.enable_cpu_mem_arena = False  # it grows by doubling and gives nothing back; without it a value is freed
    options.enable_mem_pattern = False  # where it was read last, and what is allocated is what is needed at once
    levels = onnxruntime.GraphOptimizationLevel
    options.intra_op_num_threads = threads
    if once:
        options.enable_mem_reuse = False
        options.add_session_config_entry("session.disable_prepacking", "1")
    if weights_in:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", weights_in)
    for path in libraries:
        options.register_custom_ops_library(path)
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def quiet_session(model: str | bytes) -> onnxruntime.InferenceSession:
    """An oracle for inputs that may not fit."""
    return session(model, quiet=True)
