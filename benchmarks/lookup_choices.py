"""What `lut_gemv (when = auto)` chooses on this machine, and what each choice costs beside the better one.

For 12 shapes and 1 to 4 bits: the choice is made from the times that `auto` measures and keeps; then both sides are
measured anew, in turns, and `loss` is what the chosen one took over the better. A loss above 0.05 is a wrong choice.
"""

from __future__ import annotations

from common import parser, report
from edgec.compiler.kernels.build import library
from edgec.passes.lookup.host_times import measure, times
from lookup import SHAPES

MORE = {"SmolLM2 up": (576, 1536), "SmolLM2 down": (1536, 576)}


def main() -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument(
        "--block", type=int, default=32, help="default 32; shapes that it does not divide are left out"
    )
    args = options.parse_args()
    built = library()
    if built.path is None:
        raise SystemExit(f"no kernels: {built.reason}")
    rows = []
    for name, (inputs, outputs) in (SHAPES | MORE).items():
        if inputs % args.block:
            continue
        for bits in (1, 2, 3, 4):
            known = times(outputs, inputs, bits, args.block, 8)
            if known is None:
                raise SystemExit("no kernels")
            chosen = 0 if known[0] < known[1] else 1
            again = measure(outputs, inputs, bits, args.block, 8, built.path)
            row = {"shape": name, "bits": bits, "chosen": ("lookup", "MatMulNBits")[chosen]}
            row |= {"lookup us": again[0] * 1e6, "MatMulNBits us": again[1] * 1e6}
            rows.append(row | {"loss": again[chosen] / min(again) - 1})
    worst = max(row["loss"] for row in rows)
    wrong = sum(row["loss"] > 0.05 for row in rows)
    report("what auto chooses", rows, args, block=args.block, **{"worst loss": worst, "above 0.05": wrong})


if __name__ == "__main__":
    main()
