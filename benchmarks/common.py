"""What the benchmark scripts share: the example models and texts, plans written on the fly, tables, `--json FILE`."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "examples" / "models"
QWEN3, QWEN2 = MODELS / "pycode-qwen3", MODELS / "pycode-qwen2"
HELDOUT = ROOT / "examples" / "text" / "heldout.txt"
MODULES = HELDOUT.with_name("modules.txt")  # ordinary code, for few windows: the first of the other are easy tables
QWEN3_CONFIG = {  # what configs of all Qwen3 sizes share
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}
EDGEC = [sys.executable, "-m", "edgec.compiler.cli"]


def arguments(doc: str | None, **defaults: int) -> argparse.Namespace:
    """`--json FILE` and one integer option per keyword, each with its default."""
    options = parser(doc)
    for name, value in defaults.items():
        options.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=f"default {value}")
    return options.parse_args()


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Takes `--json FILE`."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    return made


def bundle_parser(doc: str | None) -> argparse.ArgumentParser:
    """Of scripts that judge lines of one example model in ONNX Runtime and as bundles."""
    options = parser(doc)
    for name, value in (("windows", 96), ("qnn-windows", 12), ("samples", 32)):
        options.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    options.add_argument("--model", default=QWEN3.name, choices=(QWEN3.name, QWEN2.name), help=f"default {QWEN3.name}")
    options.add_argument("--only", default="", metavar="PATTERN")
    return options


def report(title: str, rows: Sequence[dict[str, Any]], args: argparse.Namespace, **facts: Any) -> None:
    """Print `rows` as a table and write everything to `--json`."""
    facts = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", **facts}
    print(title)
    print("  " + ", ".join(f"{key}: {value}" for key, value in facts.items()))
    head = list(dict.fromkeys(key for row in rows for key in row))
    shown = [[_cell(row.get(key)) for key in head] for row in rows]
    widths = [max(len(line[i]) for line in [head, *shown]) for i in range(len(head))]
    for line in [head, *shown]:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if args.json:
        args.json.write_text(json.dumps({"title": title, **facts, "rows": list(rows)}, indent=2) + "\n")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"
    return "" if value is None else str(value)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="edgec-bench-") as folder:
        yield Path(folder)


def edgec(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own; a failure shows what it printed."""
    done = subprocess.run([*EDGEC, *map(str, words)], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"edgec {' '.join(map(str, words))} failed ({done.returncode}):\n{done.stderr}")
    return done


def apart(script: str, words: Sequence[Any]) -> dict[str, Any]:
    """What `script --measure WORDS` prints, as JSON: a measurement in a process and with a cache of its own."""
    with scratch() as folder:
        env = {**os.environ, "EDGEC_CACHE": str(folder)}
        command = [sys.executable, script, "--measure", json.dumps(words)]
        made = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
    return json.loads(made.stdout)


def write_plan(folder: Path, text: str, name: str = "plan.edge") -> Path:
    """A plan in `folder`; `{qwen3}`, `{qwen2}` and `{heldout}` stand for the example files."""
    path = folder / name
    for key, value in (("qwen3", QWEN3), ("qwen2", QWEN2), ("heldout", HELDOUT)):
        text = text.replace(f"{{{key}}}", str(value))
    path.write_text(text)
    return path


def settings_text(settings: Mapping[str, Any]) -> str:
    """The settings of a quantize line as a plan has them."""
    from edgec.compiler.plan.parameters import parameters
    from edgec.passes.quantize import Quantize

    known = {one.name: one for one in parameters(Quantize)}
    return ", ".join(f"{key} = {known[key].written(value)}" for key, value in settings.items())


def text_digest() -> str:
    """The first digits of the held-out text's sha256: figures on another text are other figures."""
    return hashlib.sha256(HELDOUT.read_bytes()).hexdigest()[:12]


def timed(action: Any) -> tuple[float, Any]:
    """Seconds and result of one call."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result
