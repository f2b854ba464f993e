"""edgec beside other quantisers: same model, bits, block, layers and calibration windows; one judge for all.

    perplexity   of 96 held-out windows of 256 tokens (smollm2: 32), as a ratio to float32; repeats to about 0.002
    divergence   KL(float32 | quantised) per position on the same windows, in nats: the sharper figure
    bits         a weight, scales and zero points as the tool stores them (float16 scales)

`--install` makes each peer's environment under .peers/ (about 1 GB each). Every line is a process of its own, on
`OMP_NUM_THREADS` threads (as many as cores if it is not set); peak is the most memory that process had resident.
`--json FILE` keeps finished lines: a second run goes on behind them.
`smollm2` is the real model of benchmarks/real.py with its texts, in two formats: its slow lines take an hour each.
`smollm2-first6` is the same with its first six layers quantised and the others in float.
`--only PATTERN` runs the lines whose name (`pycode-qwen3 int4 block 32 symmetric gptqmodel gptq`) it matches.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, apart, parser, report, scratch, text_digest
from judge import judge
from quality import FORMATS, Form
from subjects import SMOLLM2, SMOLLM2_FIRST, subject

HERE = Path(__file__).with_suffix("")
QUALITY = Path(__file__).with_name("quality.py")
ENVIRONMENTS = ROOT / ".peers"
OURS = ("rtn", "mse", "hqq", "awq", "gptq", "gptq tuned", "reconstruct")
REAL = tuple(form for form in FORMATS if form.bits in (3, 4) and form.block == 32 and form.symmetric)
_LONGEST = 7200.0  # seconds a line may take


@dataclass(frozen=True)
class Line:
    """One row of the table: a tool's method on a model in a format."""

    model: str
    form: Form
    tool: str
    method: str
    script: str = ""
    environment: str = "edgec"
    zero: str = "integers"

    @property
    def name(self) -> str:
        return f"{self.model} {self.form} {self.tool} {self.method}"

    @property
    def bits(self) -> float:
        zero = 0 if self.form.symmetric else 16 if self.zero == "halves" else self.form.bits
        return self.form.bits + (16 + zero) / self.form.block


def lines(peers: dict[str, Any]) -> Iterator[Line]:
    """All rows, the slow methods last."""
    made = []
    for model in ("pycode-qwen3", "pycode-qwen2", SMOLLM2, SMOLLM2_FIRST):
        for form in REAL if model in (SMOLLM2, SMOLLM2_FIRST) else FORMATS:
            made += [Line(model, form, "edgec", method) for method in OURS]
            for peer in peers["line"]:
                if form.bits in peer.get("bits", (2, 3, 4, 8)) and form.symmetric in peer.get(
                    "symmetric", (True, False)
                ):
                    tool, place = peer["tool"], peer.get("environment", peer["tool"])
                    more = {"script": peer["script"], "environment": place, "zero": peer.get("zero", "integers")}
                    made += [Line(model, form, tool, method, **more) for method in peer["methods"]]
    return iter(sorted(made, key=lambda line: line.method.startswith(("reconstruct", "signround"))))


def python(environment: str) -> Path:
    """The interpreter of an environment."""
    return Path(sys.executable) if environment == "edgec" else ENVIRONMENTS / environment / "bin" / "python"


def run(line: Line, folder: Path) -> dict[str, float]:
    """Quantise and judge."""
    form = line.form
    if line.tool == "edgec":
        method, _, tuned = line.method.partition(" ")
        settings = {**form.settings, "method": method, **({"tune": "scales"} if tuned else {})}
        return apart(str(QUALITY), [line.model, settings])
    out, ids = folder / "out", folder / f"{line.model}.npy"
    of = subject(line.model)
    job = {"model": str(of.part or of.folder), "windows": str(ids), "out": str(out), "method": line.method}
    job |= {"bits": form.bits, "block": form.block, "symmetric": form.symmetric}
    facts = told(line.environment, line.script, job, folder)
    return {**judged(line.model, out), **facts}


def told(environment: str, script: str, job: dict[str, Any], folder: Path) -> dict[str, float]:
    """What a peer's script says at its end: seconds and MiB. RuntimeError: it failed."""
    command = [str(python(environment)), str(HERE / script), json.dumps(job)]
    # in a folder that goes away: some tools leave logs where they are started
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LONGEST, cwd=folder)
    if done.returncode:
        raise RuntimeError(next((x for x in reversed(done.stderr.splitlines()) if x.strip()), "it died"))
    return json.loads(next(x for x in reversed(done.stdout.splitlines()) if x.startswith('{"seconds"')))


def judged(model: str, folder: Path) -> dict[str, float]:
    """What the judge says of a dequantised model."""
    from edgec.compiler.sources.hf.load_hf import load_hf

    of = subject(model)
    of.put_together(folder)
    return judge(load_hf("m", folder, 512), of.module(), of.ids(), of.windows)


def write_windows(folder: Path, model: str) -> None:
    """The calibration windows [128, 256] of a model, as edgec chooses them."""
    from edgec.compiler.calibration import windows as calibrate

    path = folder / f"{model}.npy"
    if not path.exists():
        np.save(path, calibrate.windows(subject(model).calibrated(), subject(model).module()))


def row(line: Line, folder: Path) -> dict[str, Any]:
    """The table's row; a tool that fails says why."""
    head = {"model": line.model, "format": str(line.form), "tool": line.tool, "method": line.method}
    if not python(line.environment).exists():
        return {**head, "note": "not installed"}
    try:
        got = run(line, folder)
    except (RuntimeError, subprocess.SubprocessError) as error:
        return {**head, "note": f"fails: {error}"[:120]}
    figures = {"bits": line.bits, "perplexity": got["ratio"], "divergence": got["divergence"]}
    return {**head, **figures, "seconds": round(got["seconds"], 1), "peak MiB": round(got["peak"])}


def best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per model and format: the least divergence of ours, and of each other tool."""
    made: dict[tuple[str, str], dict[str, Any]] = {}
    for one in rows:
        if "divergence" in one:
            at = made.setdefault((one["model"], one["format"]), {"model": one["model"], "format": one["format"]})
            at[one["tool"]] = min(at.get(one["tool"], one["divergence"]), one["divergence"])
    return list(made.values())


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table for docs/peers.md: per model a line for each method, per format its ratio and divergence."""
    text = ""
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        formats = [str(form) for form in FORMATS if any(row["format"] == str(form) for row in own)]
        text += f"\n| {model} | " + " | ".join(formats) + " | seconds | MiB |\n" + "| --- " * (len(formats) + 3) + "|\n"
        least = {x: min(row.get("divergence", 9.0) for row in own if row["format"] == x) for x in formats}
        for key in sorted({(row["tool"], row["method"]) for row in own}, key=lambda key: (key[0] != "edgec", key)):
            line = {row["format"]: row for row in own if (row["tool"], row["method"]) == key}
            cells = [_cell(line.get(form, {}), least[form]) for form in formats]
            took = [row["seconds"] for row in line.values() if "seconds" in row]
            peak = max((row["peak MiB"] for row in line.values() if "seconds" in row), default=0)
            span = f"{min(took):.0f} to {max(took):.0f}" if took else ""
            text += f"| {' '.join(key)} | " + " | ".join(cells) + f" | {span} | {peak} |\n"
    return text


def _cell(row: dict[str, Any], least: float) -> str:
    if "divergence" not in row:
        return row.get("note", "").split(":")[0]
    figures = f"{row['perplexity']:.4f} / {1000 * row['divergence']:.1f}"
    return f"**{figures}**" if row["divergence"] == least else figures


def install(peers: dict[str, Any], only: str = "") -> None:
    """An environment for each peer whose name `only` matches, with the torch that edgec is pinned to."""
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    for name, wanted in peers["environment"].items():
        if not re.search(only, name):
            continue
        place = ENVIRONMENTS / name
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip = [str(python(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, torch, "numpy"], check=True)
        (place / "constraints.txt").write_text(torch + "\n")
        subprocess.run([*pip, "-c", str(place / "constraints.txt"), *wanted["requirements"]], check=True)
        if "alone" in wanted:
            subprocess.run([*pip, "--no-deps", "--no-build-isolation", *wanted["alone"]], check=True)
        print(f"{name}: installed", file=sys.stderr)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--install", action="store_true", help="make the peers' environments (--only: some) and stop")
    options.add_argument("--markdown", action="store_true", help="print the tables of docs/peers.md from --json's file")
    options.add_argument("--only", default="", metavar="PATTERN")
    args = options.parse_args()
    peers = tomllib.loads((HERE / "peers.toml").read_text())
    if args.install:
        install(peers, args.only)
        return
    if args.markdown:
        print(markdown(json.loads(args.json.read_text())["rows"]))
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    kept = json.loads(args.json.read_text())["rows"] if args.json and args.json.exists() else []
    done = {tuple(one[key] for key in ("model", "format", "tool", "method")): one for one in kept}
    title, facts = "edgec beside its peers", {"threads": os.environ["OMP_NUM_THREADS"], "text": text_digest()}
    with scratch() as folder:
        for line in lines(peers):
            key = (line.model, str(line.form), line.tool, line.method)
            if key in done or not re.search(args.only, line.name):
                continue
            write_windows(folder, line.model)
            done[key] = row(line, folder)
            print(done[key], file=sys.stderr, flush=True)
            if args.json:
                args.json.write_text(json.dumps({"title": title, "rows": list(done.values())}) + "\n")
    rows = sorted(done.values(), key=lambda one: (one["model"], one["format"], one.get("divergence", 9.0)))
    report(title, rows, args, **facts)
    args.json = None
    report("Least divergence of each tool", best(rows), args, **facts)


if __name__ == "__main__":
    main()
