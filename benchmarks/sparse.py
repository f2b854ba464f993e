"""What each way of pruning costs, relative to float32: held-out text, 96 windows of 256 tokens (`--windows`).

    perplexity   as a ratio to float32; repeats to about 0.002
    divergence   KL(float32 | pruned) per position, in nats
    text         the same ratio on the calibration text, which the pass itself tells

All linears but the head, or those of MLPs alone. Calibration: 128 windows of 256 tokens (`--samples`) of the running
interpreter's standard library, the held-out modules left out. Each line has a process and a cache of its own; `peak
MiB` is that process's while it prunes. `--model FILE.gguf` judges a real model on English instead (every second topic
of pydoc, the others calibrate it), `--layers 6` prunes its first six layers alone. `--peers` adds llm-compressor's
SparseGPT and Wanda at 2:4, with the library's defaults, on the same windows (`python benchmarks/peers.py --install
--only llm-compressor` first). `--layer` prunes one layer of Qwen3-4B's largest shape, 2560 outputs of 9728 inputs.
`--only PATTERN` runs the lines whose name it matches.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import peers
from common import MODELS, QWEN3, apart, parser, report, scratch
from judge import judge, token_ids
from real import texts as english
from subjects import SMOLLM2, SMOLLM2_FIRST, Subject, subject, training_files

if TYPE_CHECKING:
    from edgec.compiler.calibration.calibration_text import Calibration
    from edgec.compiler.ir.module import Module

BLOCKS = {"method": "sparsegpt", "swaps": True, "recover": "blocks"}
BEST = {**BLOCKS, "permute": True}
WAYS: dict[str, dict[str, Any]] = {
    "magnitude": {"method": "magnitude"},
    "wanda": {"method": "wanda"},
    "wanda swaps": {"method": "wanda", "swaps": True},
    "wanda swaps layer": {"method": "wanda", "swaps": True, "recover": "layer"},
    "sparsegpt": {"method": "sparsegpt"},
    "sparsegpt swaps": {"method": "sparsegpt", "swaps": True},
    "sparsegpt swaps layer": {"method": "sparsegpt", "swaps": True, "recover": "layer"},
    "sparsegpt swaps permute": {"method": "sparsegpt", "swaps": True, "permute": True},
    "sparsegpt swaps blocks": BLOCKS,
    "sparsegpt swaps blocks permute": BEST,
}
INT4 = {"weights": "int4", "block": 32, "method": "gptq"}
ON = {"all": None, "mlp": ("layers.*.mlp.*_proj",)}
PEER_ON = {"all": "_proj$", "mlp": r"mlp\..*_proj$"}
PEERS = ("sparsegpt", "wanda")
OUT = ("lm_head", "embed_tokens")
LAYER = (2560, 9728)  # outputs and inputs of Qwen3-4B's down_proj


def lines() -> dict[str, dict[str, Any]]:
    """Name -> what is pruned, how, and what follows."""
    made = {}
    for on in ON:
        for pattern in ("2:4", "pairs"):
            for name, way in WAYS.items():
                made[f"{on} {pattern} {name}"] = {"on": on, "pattern": pattern, "way": way}
        for pattern in ("2:4", "pairs"):
            name = f"{on} {pattern} sparsegpt swaps blocks permute + int4 gptq"
            made[name] = {"on": on, "pattern": pattern, "way": BEST, "integers": INT4}
    for pattern in ("4:8", "1:4"):
        made[f"all {pattern} sparsegpt swaps"] = {"on": "all", "pattern": pattern, "way": WAYS["sparsegpt swaps"]}
    return made


def globs(on: str, layers: int) -> tuple[str, ...] | None:
    """What a line selects, of the first `layers` layers (0: of all)."""
    chosen = ON[on] or ("layers.*.*",)
    return tuple(x.replace("layers.*", f"layers.{at}", 1) for at in range(layers) for x in chosen) or ON[on]


def load(model: str) -> Module:
    """The model in float."""
    from edgec.compiler.sources.gguf.load_gguf import load_gguf
    from edgec.compiler.sources.hf.load_hf import load_hf

    return load_gguf("m", Path(model), 512) if model.endswith(".gguf") else load_hf("m", MODELS / model, 512)


def texts(model: str, folder: Path, samples: int) -> tuple[Calibration, list[int]]:
    """Calibration text, and the ids that the model is judged on."""
    from edgec.compiler.calibration.calibration_text import Calibration
    from edgec.compiler.diagnostics.diagnostic import Span
    from edgec.compiler.oracle import text_perplexity

    at = Span("sparse", 1, 1, 1, 1)
    if not model.endswith(".gguf"):
        return Calibration(training_files(), samples, 256, 0, at), token_ids(model)
    judged, other = english()
    (folder / "calibration.txt").write_text(other)
    tokenizer = load(model).tokenizer_folder
    if tokenizer is None:
        raise SystemExit(f"{model} has no tokenizer")
    ids = text_perplexity.token_ids(tokenizer, judged)
    return Calibration((folder / "calibration.txt",), samples, 256, 0, at), ids


def measure(model: str, line: dict[str, Any], windows: int, samples: int, layers: int) -> dict[str, Any]:
    """What the judge says of one model pruned in one way, seconds and MiB while it is pruned."""
    from edgec.compiler.emit.child_process import peak_rss
    from edgec.compiler.pipeline.pass_interface import Scope
    from edgec.compiler.plan.parameters import Pattern
    from edgec.passes.quantize import Quantize
    from edgec.passes.sparsify import Sparsify

    with scratch() as folder:
        given, ids = texts(model, folder, samples)
        module, pattern = load(model), line["pattern"]
        n_of_m = pattern if pattern == "pairs" else Pattern(*map(int, pattern.split(":")))
        start = time.perf_counter()
        on = globs(line["on"], layers)
        scope = Scope(on, OUT, given.span, given)
        Sparsify(pattern=n_of_m, **line["way"]).run(module, scope)
        if "integers" in line:
            Quantize(**line["integers"]).run(module, Scope(on, OUT, given.span, given))
        facts = {"seconds": time.perf_counter() - start, "peak": peak_rss() / 2**20}
        told = re.search(r"([\d.]+) times as much", " ".join(scope.notes))
        return {**judge(module, load(model), ids, windows), **facts, "text": float(told[1]) if told else None}


def measure_peer(model: str, on: str, method: str, windows: int, samples: int, layers: int) -> dict[str, Any]:
    """The same of llm-compressor's `method` at 2:4."""
    from edgec.compiler.calibration import windows as calibrate
    from edgec.compiler.sources.hf.load_hf import load_hf

    with scratch() as folder:
        given, ids = texts(model, folder, samples)
        np.save(folder / "windows.npy", calibrate.windows(given, load(model)))
        whole = peer_subject(model, layers)
        job = {
            "model": str(whole.part or whole.folder),
            "windows": str(folder / "windows.npy"),
            "out": str(folder / "out"),
        }
        job |= {"method": method, "pattern": "2:4", "on": PEER_ON[on]}
        facts = peers.told("llm-compressor", "llm_compressor_pruning.py", job, folder)
        whole.put_together(folder / "out")
        return {**judge(load_hf("m", folder / "out", 512), load(model), ids, windows), **facts, "text": None}


def peer_subject(model: str, layers: int) -> Subject:
    """The model as transformers reads it; SystemExit: no peer prunes so many layers."""
    if not layers:
        return subject(SMOLLM2 if model.endswith(".gguf") else model)
    if not model.endswith(".gguf") or layers != subject(SMOLLM2_FIRST).layers:
        raise SystemExit("--peers takes --layers 6 of the GGUF")
    return subject(SMOLLM2_FIRST)


def layer() -> dict[str, Any]:
    """One linear of `LAYER` pruned by sparsegpt and swaps on 32,768 random inputs that go together."""
    import torch
    from edgec.compiler.calibration.cores import one_thread_an_operation
    from edgec.compiler.emit.child_process import peak_rss
    from edgec.compiler.ir.sparse_pattern import Sparsity
    from edgec.passes.sparsity.solve import Problem, Settings, prune_rows

    outputs, inputs = LAYER
    chance = torch.Generator().manual_seed(0)
    w = torch.randn(outputs, inputs, generator=chance)
    hessian, mixed = torch.zeros(inputs, inputs), torch.randn(64, inputs, generator=chance)
    for _ in range(32):
        x = torch.randn(1024, inputs, generator=chance) + torch.randn(1024, 64, generator=chance) @ mixed / 8
        hessian.addmm_(x.T, x, alpha=2 / (32 * 1024))
    del x, mixed
    before, start = peak_rss() / 2**20, time.perf_counter()
    settings = Settings(Sparsity("2:4"), "sparsegpt", swaps=True, recover="none")
    with one_thread_an_operation():
        list(prune_rows(Problem("layer", w, w, hessian, 32 * 1024), settings))
    return {
        "shape": f"{outputs} x {inputs}",
        "seconds": time.perf_counter() - start,
        "peak MiB": peak_rss() / 2**20,
        "before": before,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", help="one line in this process, as JSON")
    options.add_argument("--only", default="", metavar="PATTERN")
    options.add_argument("--model", default=QWEN3.name, help=f"default {QWEN3.name}")
    options.add_argument("--windows", type=int, default=96)
    options.add_argument("--samples", type=int, default=128)
    options.add_argument("--layers", type=int, default=0, help="the first so many layers alone (default 0: all)")
    options.add_argument("--peers", action="store_true", help="llm-compressor beside it")
    options.add_argument("--layer", action="store_true")
    args = options.parse_args()
    if args.measure:
        model, line, *counts = json.loads(args.measure)
        print(
            json.dumps(measure_peer(model, *line, *counts) if isinstance(line, list) else measure(model, line, *counts))
        )
        return
    if args.layer:
        report("One layer by sparsegpt and swaps", [layer()], args)
        return
    rows = []
    wanted: dict[str, Any] = lines()
    if args.peers:
        wanted |= {f"{on} 2:4 llm-compressor {method}": [on, method] for on in PEER_ON for method in PEERS}
    for name, line in wanted.items():
        if not re.search(args.only, name):
            continue
        got = apart(__file__, [args.model, line, args.windows, args.samples, args.layers])
        row = {"line": name, "perplexity": got["ratio"], "divergence": got["divergence"], "text": got["text"]}
        rows.append(row | {"seconds": round(got["seconds"], 1), "peak MiB": round(got["peak"])})
        print(rows[-1], file=sys.stderr, flush=True)
    report(f"{Path(args.model).name} pruned, relative to float32", rows, args, windows=args.windows)


if __name__ == "__main__":
    main()
