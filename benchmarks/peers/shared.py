"""What every peer's script shares; runs in the peer's own environment, without edgec.

A script is called with a job in JSON: `model` (a Hugging Face folder), `windows` (int32 [128, 256] in an .npy file),
`out` (the folder to write), `bits`, `block`, `symmetric`, `method`. It writes the model with the weights its tool made,
dequantised to float32, and prints one line of JSON: seconds and peak MiB of this process while it quantised.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SKIPPED = ("lm_head", "embed_tokens")


def job() -> dict[str, Any]:
    """What is asked for; nothing is fetched, and the tool's own chatter goes to stderr."""
    os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""})
    return json.loads(sys.argv[1])


def timed(action: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The action's result, its seconds, and the process's peak until then."""
    real, sys.stdout = sys.stdout, sys.stderr
    start = time.perf_counter()
    try:
        made = action()
    finally:
        sys.stdout = real
    seconds = time.perf_counter() - start
    # `ru_maxrss` would remember the process that this one was forked from
    peak = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    return made, {"seconds": seconds, "peak": int(peak[1]) / 1024 if peak else float("nan")}


def write(wanted: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """The job's model with `weights` (Hugging Face name -> array [N, K]) exchanged, as float32."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    source, out = Path(wanted["model"]), Path(wanted["out"])
    out.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*.json"):
        shutil.copy(path, out)
    tensors = {name: array.astype(np.float32) for name, array in load_file(source / "model.safetensors").items()}
    unknown = set(weights) - set(tensors)
    if unknown:
        raise ValueError(f"no such weights: {sorted(unknown)[:3]}")
    for name, array in weights.items():
        tensors[name] = np.ascontiguousarray(array, np.float32).reshape(tensors[name].shape)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def tell(facts: Mapping[str, Any]) -> None:
    """The closing line."""
    print(json.dumps(facts), flush=True)


def float_model(wanted: Mapping[str, Any]) -> Any:
    """The job's model in transformers, float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(wanted["model"], dtype=torch.float32)


def windows(wanted: Mapping[str, Any]) -> Any:
    """Calibration ids [128, 256]."""
    import numpy as np

    return np.load(wanted["windows"])


def linears(model: Any) -> dict[str, Any]:
    """name -> torch linear, the skipped ones left out."""
    import torch

    found = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    return {name: part for name, part in found.items() if not name.endswith(SKIPPED)}
