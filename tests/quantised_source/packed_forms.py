"""The linears in `packed.safetensors`: their forms, and the integers that the libraries were given."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .make_quantised import Form, Integers, random_integers

N, K = 32, 128

FORMS = [
    *(Form("gptq", bits, 32, version="gptq") for bits in (2, 3, 4, 8)),
    *(Form("gptq", bits, 32, False, version="gptq_v2") for bits in (2, 3, 4, 8)),
    Form("gptq", 4, 128, False, version="gptq"),
    Form("gptq", 3, 64, False, version="gptq"),
    Form("gptq", 4, 32, True, act_order=True, version="gptq"),
    *(Form("awq", 4, group, False, version=v) for group in (32, 64) for v in ("gemm", "gemv")),
    *(Form("compressed-tensors", b, g, s) for b, g in ((3, 64), (4, 32), (4, None), (8, 32)) for s in (True, False)),
]


def packed_integers() -> Iterator[tuple[Form, Integers]]:
    """Each form with its integers, always the same."""
    rng = np.random.default_rng(7)
    for form in FORMS:
        yield form, random_integers(form, N, K, rng)
