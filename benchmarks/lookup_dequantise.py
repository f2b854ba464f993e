"""Weights out of bit planes (`LutDequant`) beside weights out of integers packed row by row, both in C by AVX-512.

Nanoseconds of the whole matrix, one thread, the least of many in turns; `ratio` is the planes' over the packed side's.
The packed side is written by us (`lookup_dequantise.c`) and holds 3 bits in 4. Needs a C compiler and AVX-512.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from common import parser, report, scratch
from edgec.compiler.kernels.build import build_into
from edgec.compiler.kernels.c_compiler import compiler
from lookup import SHAPES

WORDS = ("-O3", "-std=gnu11", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")


def main() -> None:
    """Print the table."""
    args = parser(__doc__).parse_args()
    found, rows = compiler(), []
    if found is None:
        raise SystemExit("there is no C compiler")
    with scratch() as folder:
        build_into(folder)
        program, source = folder / "dequantise", Path(__file__).with_suffix(".c")
        library = ["-L", str(folder), "-l:libedgec_lookup.so", f"-Wl,-rpath,{folder}"]
        subprocess.run([*found, *WORDS, "-I", str(folder), str(source), *library, "-o", str(program)], check=True)
        for name, (inputs, outputs) in SHAPES.items():
            rounds = max(10, min(300, (1 << 28) // (inputs * outputs)))
            for block in (32, 128):
                words = map(str, (outputs, inputs, block, rounds))
                done = subprocess.run([str(program), *words], check=True, capture_output=True, text=True)
                for line in done.stdout.splitlines():
                    bits, planes, packed = (float(word) for word in line.split())
                    row = {"shape": name, "block": block, "bits": int(bits), "planes": planes, "packed": packed}
                    rows.append(row | {"ratio": planes / packed})
    report("weights out of bit planes", rows, args, **{"worst ratio": max(row["ratio"] for row in rows)})


if __name__ == "__main__":
    main()
