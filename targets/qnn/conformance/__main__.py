"""`python -m edgec.targets.qnn.conformance`: measure the table on the HTP emulator, or sum it up."""

from __future__ import annotations

import sys

from ....compiler.diagnostics.diagnostic import EdgecError
from ....compiler.emit.conformance.measure import run_bench
from .measure import HtpBench

if __name__ == "__main__":
    try:
        sys.exit(run_bench(HtpBench(), "python -m edgec.targets.qnn.conformance"))
    except EdgecError as error:
        sys.exit(str(error))
