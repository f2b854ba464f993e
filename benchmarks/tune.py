"""`edgec tune` beside a full sweep: pycode-qwen3 on MNN, 36 points (three widths, three blocks, four methods).

rate        tokens a second as large as may be while perplexity stays within 1.01 times the float model's
quality     perplexity as small as may be in a bundle of at most 5 MB

Each search begins with an empty cache; the sweep makes all 36. `engine runs` are compiles with what they measure.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import edgec
from common import ROOT, arguments, report

AXES = {"bits": ["int3", "int4", "int8"], "block": [32, 64, 128], "method": ["rtn", "mse", "awq", "gptq"]}
GOALS = {
    "rate": ("decode.rate", "m.perplexity <= 1.01 * baseline"),
    "quality": ("m.perplexity", "bundle.size <= 5 MB"),
}
BUDGET = 600.0  # seconds of a search


def plan(goal: str, line: str) -> str:
    """The plan with one goal and one requirement."""
    lets = "\n".join(f"let {name} = tune({', '.join(map(str, values))})" for name, values in AXES.items())
    text = ROOT / "examples" / "text"
    return f"""plan tuned
{lets}
device snapdragon_8_gen_3
model m {{ source = hf("{ROOT / "examples" / "models" / "pycode-qwen3"}")  context = 512 }}
calibration {{ text = "{text / "calibration.txt"}"  samples = 16  length = 128 }}
evaluation {{ text = "{text / "modules.txt"}"  windows = 16 }}
pipeline p {{ quantize (weights = bits, block = block, method = method)  except ["lm_head", "embed_tokens"] }}
deploy m on cpu through p as mnn {{ memory = normal }}
require {{ {line} }}
goal = {goal}
"""


def measured(folder: Path, goal: str, line: str) -> dict[str, Any]:
    """The search, then the sweep it has to be no worse than."""
    path = folder / "plan.edge"
    path.write_text(plan(goal, line), encoding="utf-8")
    os.environ["EDGEC_CACHE"] = str(folder / "cache-tune")
    began = time.monotonic()
    tuned = edgec.tune(path, seconds=BUDGET, progress=print)
    searched = time.monotonic() - began
    os.environ["EDGEC_CACHE"] = str(folder / "cache-sweep")
    began = time.monotonic()
    swept = edgec.sweep(path, AXES, keep_going=True, progress=print)
    sign = -1 if goal == "decode.rate" else 1
    holding = [point for point in swept.points if point.state == "holds"]
    best = min(holding, key=lambda point: sign * point.figures.measures[goal])
    won = next(point for point in swept.points if point.values == tuned.winner.values)
    found, bound = won.figures.measures[goal], best.figures.measures[goal]
    return {
        "goal": goal,
        "require": line,
        "found": tuned.winner.name,
        "value": found,
        "best of the sweep": best.name,
        "its value": bound,
        "no worse": won.state == "holds" and sign * found <= sign * bound,
        "engine runs": tuned.engine_runs,
        "of": len(swept.points),
        "modules judged": tuned.modules_judged,
        "seconds": round(searched, 1),
        "seconds of the sweep": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Print a row for each goal."""
    args = arguments(__doc__)
    rows = []
    for name, (goal, line) in GOALS.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"search": name, **measured(Path(folder), goal, line)})
    report("edgec tune beside a sweep of every point", rows, args)


if __name__ == "__main__":
    main()
