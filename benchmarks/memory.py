"""Peak resident memory of compiling a model of Qwen3-0.6B's shape (1.2 GB of random bf16 weights) to its MNN bundle.

The figure is the largest resident set of any process of the compile (edgec itself, or an engine's child).
`--method gptq` solves the integers on 32 windows of 256 tokens. The cache is a folder of its own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path

import numpy as np
from common import EDGEC, QWEN3, QWEN3_CONFIG, parser, report, scratch, timed, write_plan

CONFIG = {
    **QWEN3_CONFIG,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "eos_token_id": 2,
    "bos_token_id": 0,
}
PLAN = """
plan memory
device snapdragon_8_gen_3
model big { source = hf("{model}")  context = 2048 }
calibration { text = "{heldout}"  samples = 32  length = 256 }
pipeline p { quantize (weights = int4, block = 32, method = {method}) }
deploy big on cpu through p as mnn
"""


def synthesize(folder: Path, layers: int) -> int:
    """Write a checkpoint of random bf16 weights, one tensor at a time; returns its bytes."""
    from edgec.compiler.sources.hf.read_decoder_arch import read_arch

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_bytes((QWEN3 / name).read_bytes())
    header: dict[str, object] = {}
    offset = 0
    tensors = read_arch(folder).tensors()
    for name, shape in tensors.items():
        size = 2 * int(np.prod(shape))
        header[f"model.{name}"] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for shape in tensors.values():
            scale = 0.0 if len(shape) == 1 else shape[-1] ** -0.5
            for _ in range(shape[0] if len(shape) > 1 else 1):
                row = rng.standard_normal(shape[-1], np.float32) * scale + (1.0 if len(shape) == 1 else 0.0)
                file.write((row.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return offset


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--layers", type=int, default=28, help="default 28")
    options.add_argument("--method", default="rtn", help="of choosing integers; default rtn")
    args = options.parse_args()
    with scratch() as folder:
        stored = synthesize(folder / "model", args.layers)
        plan = write_plan(folder, PLAN.replace("{model}", str(folder / "model")).replace("{method}", args.method))
        os.environ["EDGEC_CACHE"] = str(folder / "cache")
        command = [*EDGEC, "compile", str(plan), "-o", str(folder / "bundle"), "--quiet", "--json"]
        seconds, done = timed(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
        if done.returncode:
            raise SystemExit(done.stderr)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        made = json.loads(done.stdout)["bytes"]
        row = {
            "layers": args.layers,
            "method": args.method,
            "source MB": stored / 1e6,
            "bundle MB": made / 1e6,
            "peak RSS MB": peak / 1e6,
            "seconds": seconds,
        }
    report("Quantising to an MNN bundle: peak memory", [row], args)


if __name__ == "__main__":
    main()
