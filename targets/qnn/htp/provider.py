"""ONNX Runtime's QNN execution provider inside a worker process: registration, options, sessions.

Everything here runs in the child only. The provider is registered once and stays registered until the process
ends: a shared context loses graphs when it is unregistered between two compilations.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ....compiler.ir.onnx_runtime import onnxruntime as ort
from .engine_options import OPTIMIZATION

PROVIDER = "QNNExecutionProvider"

# The engine ignores a key it does not know without a word, so every key we may set stands here, and a test looks
# each of them up in the provider's library.
PROVIDER_OPTIONS = frozenset(
    {
        "backend_path",
        "soc_model",
        "htp_arch",
        "vtcm_mb",
        "htp_graph_finalization_optimization_mode",
        "enable_htp_fp16_precision",
        "offload_graph_io_quantization",
    }
)
SESSION_ENTRIES = frozenset({"session.disable_cpu_ep_fallback", "ep.share_ep_contexts", "ep.stop_share_ep_contexts"})

ERROR, VERBOSE = 3, 0


@cache
def _devices() -> list[Any]:
    """The provider's devices; the first call registers the provider."""
    import onnxruntime_qnn

    ort.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    return [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]


def provider_options(soc_model: int | str, arch: int | str, vtcm_mb: int) -> dict[str, str]:
    """The compiler options for one chip: fp16 arithmetic, the highest graph optimisation."""
    import onnxruntime_qnn

    return {
        "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
        "soc_model": str(soc_model),
        "htp_arch": str(arch),
        "vtcm_mb": str(vtcm_mb),
        "htp_graph_finalization_optimization_mode": str(OPTIMIZATION),
        "enable_htp_fp16_precision": "1",
        "offload_graph_io_quantization": "0",
    }


def session_options(options: Mapping[str, str], entries: Mapping[str, str] | None = None, severity: int = ERROR) -> Any:
    """Session options with the provider chosen and the CPU forbidden to take over a node."""
    entries = {"session.disable_cpu_ep_fallback": "1", **(entries or {})}
    unknown = (options.keys() - PROVIDER_OPTIONS) | (entries.keys() - SESSION_ENTRIES)
    if unknown:
        raise ValueError(f"option the engine would ignore: {', '.join(sorted(unknown))}")
    session = ort.SessionOptions()
    session.log_severity_level = severity
    session.add_provider_for_devices(_devices(), dict(options))
    for key, value in entries.items():
        session.add_session_config_entry(key, value)
    return session
