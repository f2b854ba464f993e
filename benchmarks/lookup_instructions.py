"""Instructions for each weight, by lookup and by unpacking and multiplying, for processors that this machine emulates.

`lookup` and `multiply` are of a product with tables of int8, `16 bits` and `float32` of one with such tables,
`dequantise` makes the weights themselves; `tables` is for each input, whatever the number of outputs.

A count, not a time: what the emulator steps through in the functions that multiply one token by 128 outputs, in blocks
of 128, between two numbers of inputs, so that what is done once cancels. On Hexagon a packet of up to four instructions
counts as one. Needs the cross compilers and emulators that `tests/lookup/emulated.py` names.

The other side is written by us (`tests/lookup/baselines.c`): on AArch64 4-bit integers and SDOT, whatever the width;
on Hexagon 1, 2 or 4 bits and VMPY.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import ROOT, parser, report, scratch

sys.path.insert(0, str(ROOT / "tests" / "lookup"))

from emulated import MACHINES, Machine

SMALL, LARGE, BLOCK = 256, 512, 128
OUTPUTS, THEIRS = 128, 64  # lookup does something once for a token, the other side nothing
FUNCTIONS = r"multiply\w*|held_\w+|\w*panels\w*|panel|\w+_tile|block_sums|arrange|convert|any|add_block|lookup_half"
WIDE = "multiply_exact|all|one|exact_tile|add_wide_block|add_block|lookup_half"
DEQUANTISE = "dequantise|dequantise_tile|dequantise_panels|panel_integers|chosen|lookup_half"
TABLES = "tables|largest_of_block|sixteen_sums|signed_sum"


def rows(machine: Machine, folder: Path) -> list[dict[str, object]]:
    """A row for each kernel and width."""
    cases, baselines = (machine.build(folder, program) for program in ("cases", "baselines"))
    found = []
    for kernel in machine.kernels:
        for bits in (1, 2, 3, 4):

            def each(what: str, functions: str, outputs: int) -> float:
                words = (kernel, what, LARGE, outputs, bits, BLOCK)  # noqa: B023 - called at once
                few = machine.count(cases, functions, kernel, what, SMALL, outputs, bits, BLOCK)  # noqa: B023
                return (machine.count(cases, functions, *words) - few) / (LARGE - SMALL)

            other = [machine.count(baselines, "baseline", k, bits, BLOCK) for k in (SMALL, LARGE)]
            ours = each("int8", FUNCTIONS, OUTPUTS) / OUTPUTS
            theirs = (other[1] - other[0]) / ((LARGE - SMALL) * THEIRS)
            row = {"kernel": kernel, "bits": bits, "lookup": ours, "multiply": theirs, "ratio": theirs / ours}
            row |= {"16 bits": each("word", FUNCTIONS, OUTPUTS) / OUTPUTS}
            row |= {"float32": each("float", WIDE, THEIRS) / THEIRS}
            row |= {"dequantise": each("dequantise", DEQUANTISE, THEIRS) / THEIRS}
            found.append(row | {"tables": each("tables", TABLES, THEIRS)})
    return found


def main() -> None:
    """Print the table."""
    args = parser(__doc__).parse_args()
    found: list[dict[str, object]] = []
    for machine in MACHINES.values():
        if machine.missing:
            print(f"{machine.name}: not installed: {machine.missing}")
            continue
        with scratch() as folder:
            found += rows(machine, folder)
    report("instructions for each weight", found, args, outputs=OUTPUTS, block=BLOCK)


if __name__ == "__main__":
    main()
