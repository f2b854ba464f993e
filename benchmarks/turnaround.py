"""Seconds of `edgec check` and `edgec compile` on the example (whole processes); are two compiles the same bytes?"""

from __future__ import annotations

import statistics
from pathlib import Path

from common import ROOT, arguments, edgec, report, scratch, timed

PLAN = ROOT / "examples" / "speculative" / "plan.edge"


def content(bundle: Path) -> dict[str, bytes]:
    return {str(path.relative_to(bundle)): path.read_bytes() for path in sorted(bundle.rglob("*")) if path.is_file()}


def main() -> None:
    args = arguments(__doc__, repeat=7)
    checks = [timed(lambda: edgec("check", PLAN))[0] for _ in range(args.repeat)]
    with scratch() as folder:
        first, _ = timed(lambda: edgec("compile", PLAN, "-o", folder / "a", "--quiet"))
        second, _ = timed(lambda: edgec("compile", PLAN, "-o", folder / "b", "--quiet"))
        same = content(folder / "a") == content(folder / "b")
    rows: list[dict[str, object]] = [
        {"command": "check", "seconds (median)": statistics.median(checks), "fastest": min(checks)},
        {"command": "compile", "seconds (median)": statistics.median([first, second]), "fastest": min(first, second)},
    ]
    report("Turnaround on the example pair", rows, args, identical_bytes=same)


if __name__ == "__main__":
    main()
