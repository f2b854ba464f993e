"""Whether shadows hide behind the NPU: Qwen3-4B's shapes on a phone's figures, no weights.

    cpu   the shadow of all linears of one input, in one call; npu: those linears in int8, the least that they can take
    hides the CPU is done first where a call of the NPU costs 50 µs, 220 µs, or in neither case

One layer of Qwen3-4B, every input with as many corrected channels as `--channels` allows (percent), in calls of
`--tokens`.
Crossings are those of a layer; `naive`: a part of the CPU for each linear. `--mode both` corrects outputs too.
"""

from __future__ import annotations

from common import parser, report, scratch
from edgec.compiler.calibration.calibration_text import Calibration
from edgec.compiler.compile.dry_run import dried
from edgec.compiler.compile.lane_times import QUICK, SLOW, beside
from edgec.compiler.diagnostics.diagnostic import Span
from edgec.compiler.ir.annotations import SHADOW
from edgec.compiler.ir.levels import Level
from edgec.compiler.partition.shadows import shadows_on_cpu
from edgec.compiler.pipeline.pass_interface import Scope
from edgec.compiler.plan.devices import devices
from edgec.passes.bucket import Bucket
from edgec.passes.quantize import Quantize
from edgec.passes.shadow import Shadow
from partition import QWEN3_4B, decoder

EXCEPT = ("lm_head", "embed_tokens")


def main() -> None:
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 64, 128, 512], help="default 1 16 64 128 512")
    options.add_argument("--channels", type=float, default=3.0, help="default 3")
    options.add_argument("--mode", default="input", choices=("input", "output", "both"))
    phones = [name for name, device in devices().items() if device.has_npu]
    options.add_argument("--device", default="snapdragon_8_gen_3", choices=phones)
    args = options.parse_args()
    device, span = devices()[args.device], Span("hides", 1, 1, 1, 1)
    with scratch() as folder:
        module = dried(decoder(folder, QWEN3_4B, 1))
        text = Calibration((), 1, 16, 0, span)
        dry = Scope(None, EXCEPT, span, text, dry=True)
        Quantize(weights="int8", block="channel", activations="uint8").run(module, dry)
        module.level = Level.COMPRESSED
        Shadow(max_channels=args.channels / 100, mode=args.mode).run(module, dry)
        Bucket(tokens=tuple(args.tokens), context=(1024,)).run(module, Scope())
        module.level = Level.STATIC
        print(*shadows_on_cpu(module, "npu"), sep="\n")
        rows = []
        for row in beside(module, "npu", device):
            linears = ", ".join(name.rpartition(".")[2] for name in row.linears)
            times = {"cpu, µs": 1e6 * row.cpu, "npu, µs": 1e6 * row.npu}
            rows.append({"bucket": row.bucket, "beside": linears, **times, "hides": row.verdict})
    calls = sum(SHADOW.get(node) == "clip" for node in next(iter(module.graphs.values())).graph)
    extra = {f"added calls at {1e6 * call:.0f} µs, ms a layer": 1e3 * calls * call for call in (QUICK, SLOW)}
    facts = {"device": device.marketing, "channels": f"{args.channels} %"}
    report("The CPU beside the NPU, Qwen3-4B", rows, args, **facts, **extra)


if __name__ == "__main__":
    main()
