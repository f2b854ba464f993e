"""hqq: half-quadratic quantisation as its authors publish it, groups along the inputs (axis = 1)."""

from __future__ import annotations

from pathlib import Path

from probe import checked, float_weights
from shared import job, tell, timed, write

WANTED = job()


def main() -> None:
    import torch
    from hqq.core.quantize import Quantizer

    weights = float_weights(Path(WANTED["model"]))

    def solve() -> dict:
        made = {}
        for name, weight in weights.items():
            q, meta = Quantizer.quantize(
                torch.from_numpy(weight), nbits=WANTED["bits"], group_size=WANTED["block"], axis=1,
                compute_dtype=torch.float32, device="cpu",
            )  # fmt: skip
            made[name] = Quantizer.dequantize(q, meta).float().numpy().reshape(weight.shape)
        return made

    made, facts = timed(solve)
    write(WANTED, checked(weights, made, WANTED["bits"]))
    tell(facts)


if __name__ == "__main__":
    main()
