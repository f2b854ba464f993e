"""Instructions for each weight, by lookup and by unpacking and multiplying, for processors that this machine emulates.

A count, not a time: what the emulator steps through in the functions that multiply one token by 512 outputs, in blocks
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

SMALL, LARGE, BLOCK = 1024, 2048, 128
OUTPUTS, THEIRS = 512, 64  # lookup does something once for a token, the other side nothing
FUNCTIONS = "multiply|multiply_dot|panel|plain_tile|dot_tile|block_sums|arrange|add_block|lookup_half"


def rows(machine: Machine, folder: Path) -> list[dict[str, object]]:
    """A row for each kernel and width."""
    cases, baselines = (machine.build(folder, program) for program in ("cases", "baselines"))
    found = []
    for kernel in machine.kernels:
        for bits in (1, 2, 3, 4):
            own = [machine.count(cases, FUNCTIONS, kernel, "time", k, OUTPUTS, bits, BLOCK) for k in (SMALL, LARGE)]
            other = [machine.count(baselines, "baseline", k, bits, BLOCK) for k in (SMALL, LARGE)]
            ours = (own[1] - own[0]) / ((LARGE - SMALL) * OUTPUTS)
            theirs = (other[1] - other[0]) / ((LARGE - SMALL) * THEIRS)
            found.append({"kernel": kernel, "bits": bits, "lookup": ours, "multiply": theirs, "ratio": theirs / ours})
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
