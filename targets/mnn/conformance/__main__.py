"""`python -m edgec.targets.mnn.conformance`: measure the table on MNN, or sum it up."""

from __future__ import annotations

import sys

from ....compiler.diagnostics.diagnostic import EdgecError
from ....compiler.emit.conformance.measure import run_bench
from .measure import MnnBench

if __name__ == "__main__":
    try:
        sys.exit(run_bench(MnnBench(), "python -m edgec.targets.mnn.conformance"))
    except EdgecError as error:
        sys.exit(str(error))
