"""The chip a context is compiled for, as the HTP compiler knows it: SoC number, Hexagon architecture, VTCM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....compiler.diagnostics.diagnostic import fail

if TYPE_CHECKING:
    from ....compiler.plan.devices import Device

# Old SoC numbers silently compile for v68, so only architectures this target was run with are taken.
ARCHS = (69, 73, 75, 79, 81)

# Parts whose NPU refuses fp16, by part number, with the source.
NO_FP16 = {
    "SM8635": "QNN answers that this SoC does not support fp16 (github.com/pytorch/executorch/pull/22542)",
    "SM7675": "QNN answers that this SoC does not support fp16 (github.com/pytorch/executorch/pull/22542)",
}


@dataclass(frozen=True)
class Chip:
    """What QNN has to know of a chip: its `soc_model`, the Hexagon version (75 for v75), VTCM in MiB."""

    name: str
    soc_model: int
    arch: int
    vtcm_mb: int

    @classmethod
    def of(cls, device: Device) -> Chip:
        """The chip of a device of the plan; `check` has made sure that there is one."""
        if device.soc is None or device.arch is None:
            fail("E0601", f"device `{device.name}` has no NPU that QNN can compile for", help=NO_NPU_HELP)
        arch = int(device.arch.removeprefix("v"))
        if arch not in ARCHS:
            fail(
                "E0602",
                f"the NPU of `{device.name}` is Hexagon {device.arch}, with which the qnn target was never tested",
                help="supported: " + ", ".join(f"v{known}" for known in ARCHS),
            )
        # the engine's own default where the table has no figure; less VTCM than the chip has is safe
        return cls(device.name, device.soc, arch, device.vtcm_mb or 4)


NO_NPU_HELP = "deploy the model on cpu, or name a Snapdragon device (`edgec devices` lists them)"


def tool_versions() -> dict[str, str]:
    """The packages whose compiler makes a binary and whose emulator runs it."""
    from importlib.metadata import version

    return {name: version(name) for name in ("onnxruntime", "onnxruntime-qnn")}
