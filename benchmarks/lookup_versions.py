"""Linears by lookup beside MatMulNBits of several onnxruntime releases, each in processes of its own, in turns.

`--python FILE` is an interpreter with another onnxruntime; it may be given several times. Each release multiplies with
int8 activations, and at 2 bits also with `mlas.use_lut_gemm`, its own lookup. Figures are microseconds of one token,
one thread, the weight in the cache, and the ratio of the fastest of them, whatever its release, to lookup.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx_ir as ir
from common import parser, report, scratch
from edgec.compiler.kernels.build import library
from edgec.passes.lookup.host_times import lookup_model, packed_model, stored_bits

SHAPES = {"Qwen2.5-0.5B up": (896, 4864), "Qwen3-4B q": (2560, 4096), "4096": (4096, 4096)}
PEER, ROUNDS = Path(__file__).with_name("lookup_peer.py"), 3


def seconds(python: str, model: Path, inputs: int, *settings: str) -> tuple[str, float]:
    """The release and its time; infinity where it refuses the model."""
    line = [python, str(PEER), str(model), str(inputs), *settings]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        return "", float("inf")
    version, best = done.stdout.split()
    return version, float(best)


def main() -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--python", action="append", default=[], metavar="FILE")
    options.add_argument("--block", type=int, default=32, help="default 32")
    args = options.parse_args()
    built = library()
    if built.path is None:
        raise SystemExit(f"no kernels: {built.reason}")
    rows = []
    with scratch() as folder:
        for name, (inputs, outputs) in SHAPES.items():
            for bits in (1, 2, 3, 4):
                ours, theirs = folder / "ours.onnx", folder / "theirs.onnx"
                ir.save(lookup_model(outputs, inputs, bits, args.block, 8), ours)
                ir.save(packed_model(outputs, inputs, stored_bits(bits), args.block), theirs)
                found: dict[str, float] = {}
                for _ in range(ROUNDS):
                    _, one = seconds(sys.executable, ours, inputs, f"library={built.path}")
                    found["lookup"] = min(one, found.get("lookup", one))
                    for python in (sys.executable, *args.python):
                        for also in ((), ("mlas.use_lut_gemm=1",)) if bits <= 2 else ((),):
                            version, one = seconds(python, theirs, inputs, *also)
                            key = f"{version}{' lut' if also else ''}"
                            found[key] = min(one, found.get(key, one))
                row = {"shape": name, "bits": bits, **{key: best * 1e6 for key, best in found.items() if key}}
                rows.append(row | {"ratio": min(found[key] for key in found if key != "lookup") / found["lookup"]})
    report("lookup beside releases of onnxruntime", rows, args, block=args.block)


if __name__ == "__main__":
    main()
