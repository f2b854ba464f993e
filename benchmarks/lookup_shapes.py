"""Products specialised for a shape beside those that take any, by kernel, width and block: the same calls in turns.

Time of the specialised product over the general one, of one token and of four, without tables; the least of many runs,
one thread. `one us` is the general one's time of one token.
"""

from __future__ import annotations

import sys
import time

from common import ROOT, parser, report
from edgec.compiler.kernels.build import library
from edgec.compiler.kernels.shapes import Shape

sys.path.insert(0, str(ROOT / "tests" / "lookup"))

from direct_calls import Product

KERNELS = ("avx512", "avx512_bw", "avx2")
SHAPES = tuple(Shape(896, bits, block) for bits in (1, 2, 3, 4) for block in (32, 128))


def main() -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--outputs", type=int, default=896, help="default 896")
    options.add_argument("--runs", type=int, default=200, help="default 200")
    args = options.parse_args()
    general, special = library(), library(SHAPES)
    if general.path is None or special.path is None:
        raise SystemExit(f"no kernels: {general.reason or special.reason}")
    rows = []
    for kernel in KERNELS:
        for shape in SHAPES:
            row: dict[str, object] = {"kernel": kernel, **shape._asdict()}
            for tokens in (1, 4):
                both = [Product.of(one.path, kernel, shape, args.outputs, tokens) for one in (general, special)]
                if (found := _least([one for one in both if one is not None], args.runs)) is None:
                    break
                row[f"{tokens}"] = found[1] / found[0]
                row |= {"one us": found[0] * 1e6} if tokens == 1 else {}
            else:
                rows.append(row)
    report("specialised over general", rows, args, outputs=args.outputs)


def _least(products: list[Product], runs: int) -> list[float] | None:
    """Seconds of each, in turns; None where the processor lacks the kernel."""
    if len(products) < 2:
        return None
    best = [float("inf")] * len(products)
    for product in products:
        product.make_tables()
    for _ in range(runs):
        for which, product in enumerate(products):
            begun = time.perf_counter()
            product.multiply()
            best[which] = min(best[which], time.perf_counter() - begun)
    return best


if __name__ == "__main__":
    main()
