"""How the linears of a quantised checkpoint are stored, as its config states it. Plain Python.

    w[n, k] = (u[n, k] - z[n, g]) * s[n, g],   0 <= u, z < 2^bits,   g = k // group (or as `g_idx` says)

layout      integers u of 32-bit words, low bits first        zero points z                    scales s
gptq        [K*bits/32, N], along the inputs                  [G, N*bits/32], outputs          [G, N]
awq_gemm    [K, N*bits/32], outputs 0 2 4 6 1 3 5 7           [G, N*bits/32], the same         [G, N]
awq_gemv    [N, K*bits/32], along the inputs                  [N, >= G*bits/32], groups        [N, >= G]
packed      [N, ceil(K*bits/32)], along the inputs            [ceil(N*bits/32), G], outputs    [N, G]

`gptq` stores z - 1 unless its format is `gptq_v2`. Symmetric: z is 2^(bits-1) everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Layout = Literal["gptq", "awq_gemm", "awq_gemv", "packed"]


@dataclass(frozen=True)
class Scheme:
    """How one linear is stored.

    method     the config's own word: `gptq`
    group      inputs that share a scale; None: all inputs of an output
    symmetric  every zero point is 2^(bits-1)
    less_one   zero points are stored minus one
    one_scale  a single scale for the whole weight
    """

    method: str
    layout: Layout
    bits: int
    group: int | None
    symmetric: bool
    less_one: bool = False
    one_scale: bool = False

    @property
    def name(self) -> str:
        """For people: `gptq int4 group 128`."""
        shared = "per channel" if self.group is None else f"group {self.group}"
        return f"{self.method} int{self.bits} {shared}"

    def groups(self, inputs: int) -> int:
        """How many scales a row of `inputs` has; the last group may be smaller."""
        return 1 if self.group is None else -(-inputs // self.group)


@dataclass(frozen=True)
class Quantised:
    """What the config of a checkpoint says: the scheme of a module by its stored name (`model.layers.0.mlp.up_proj`).

    None from `scheme_of`: the module is none of those that the config quantises.
    """

    method: str
    place: str  # where the config says so, for messages
    scheme_of: Callable[[str], Scheme | None]
