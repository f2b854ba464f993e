"""Mutated plans through the checker, in process: each has to end with a plan or with diagnostics, and never otherwise.

    python benchmarks/fuzz_plans.py [--plans 200000] [--seed 0] [--seconds N]

Started from every .edge file of the tree and every plan in the docs: tokens removed, doubled, exchanged, taken from
another plan; characters that are none of the language's; texts cut, glued and nested; odd `-D`. Of each it is demanded:
no exception, known codes, places inside the text, a plan exactly when there is no error, text that is safe to show.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from edgec.compiler.diagnostics.diagnostic import Diagnostic, render
from edgec.compiler.diagnostics.explain import codes
from edgec.dsl import check_file

ROOT = Path(__file__).resolve().parents[1]
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|[A-Za-z_][A-Za-z0-9_]*|[0-9][0-9_.]*|\s+|.', re.S)
_FENCE = re.compile(r"^```[a-z]*\n(.*?)^```", re.S | re.M)
_ODD = [*"\0\x01\t\r\n\f\v\x1b\x7f\x85\u202e\u2028\ufeff\ud800é名😀${}[]()\"'#\\=,.*<>!+-:%/;", "\r\n", "->", "2:4"]
_VALUES = ["0", "-1", "1e308", "9" * 41, "1_0", "80%", "4.5 bits", "3 GiB", "true", "[]", "[[1]]", '""', '"\\u0000"']
_NAMES = [
    "let",
    "plan",
    "model",
    "use",
    "include",
    "device",
    "host",
    "hf",
    "onnx",
    "gguf",
    "quantize",
    "cpu",
    "on",
    "x",
]


def corpus() -> list[tuple[Path, str]]:
    """(path, text) of every plan of the tree; a path of docs/ for what stands in the docs."""
    found = [(path, path.read_bytes().decode("utf-8", "replace")) for path in sorted(ROOT.rglob("*.edge"))]
    found = [(path, text) for path, text in found if ".venv" not in path.parts]
    for page in [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]:
        found += [(page, text) for text in _FENCE.findall(page.read_text(encoding="utf-8"))]
    return found


def mutated(random_: random.Random, text: str, texts: list[str]) -> str:
    """`text`, changed in one to eight places, partly with pieces of `texts`."""
    tokens = _TOKEN.findall(text)
    for _ in range(random_.choice((1, 1, 1, 2, 2, 4, 8))):
        at = random_.randrange(len(tokens) + 1)
        end = min(len(tokens), at + random_.choice((1, 1, 2, 5, 20)))
        other = _TOKEN.findall(random_.choice(texts))
        start = random_.randrange(len(other) + 1)
        match random_.randrange(10):
            case 0:
                del tokens[at:end]
            case 1:
                tokens[at:at] = tokens[at:end]
            case 2:
                tokens[at:end] = reversed(tokens[at:end])
            case 3:
                tokens[at:end] = other[start : start + 5]
            case 4:
                tokens[at:at] = other[start : start + 40]
            case 5:
                tokens[at:end] = [random_.choice(_ODD) * random_.choice((1, 1, 1, 3, 20))]
            case 6:
                tokens[at:end] = [random_.choice(_VALUES)]
            case 7:
                tokens[at:end] = [random_.choice(_NAMES)]
            case 8:
                del tokens[at:]
            case 9:
                text = "".join(tokens[at:end])
                tokens[at:end] = [text[: random_.randrange(len(text) + 1)]] if text else []
    return "".join(tokens)


def defines(random_: random.Random) -> list[str]:
    """Now and then a `-D` or two, right and wrong."""
    if random_.random() < 0.9:
        return []
    name = random_.choice(["bs", "ctx", "a", "", "é", "x y"])
    return [f"{name}{random_.choice(['=', '', '=='])}{random_.choice([*_VALUES, *_ODD])}"]


def faults(path: Path, text: str, given: list[str], known: set[str]) -> Iterator[str]:
    """What is wrong with how one plan was checked, in words."""
    try:
        plan, found, sources = check_file(path, given, text)
    except Exception:
        yield traceback.format_exc(limit=-4)
        return
    if (plan is None) != any(one.severity == "error" for one in found):
        yield "a plan beside errors, or none without"
    for one in found:
        if one.code not in known:
            yield f"unknown code {one.code}"
        yield from _misplaced(one, sources)
        shown = render(one, sources)
        if any(not c.isprintable() and c != "\n" for c in shown):
            yield f"unsafe text: {shown!r}"


def _misplaced(one: Diagnostic, sources: dict[str, str]) -> Iterator[str]:
    for label in ([one.at] if one.at else []) + list(one.also):
        lines = re.split(r"\r\n|\r|\n", sources.get(label.span.file, ""))
        if label.span.file in sources and not (
            1 <= label.span.line <= len(lines) and 1 <= label.span.column <= len(lines[label.span.line - 1]) + 1
        ):
            yield f"{one.code} at {label.span}, outside of the text"


def campaign(plans: int, seed: int, seconds: float = float("inf")) -> tuple[Counter[str], list[tuple[str, str]]]:
    """How often each code came in at most so many plans, and what went wrong: (fault, text)."""
    random_ = random.Random(seed)
    paths = corpus()
    texts = [text for _, text in paths]
    known, met, wrong = set(codes()), Counter[str](), []
    end = time.monotonic() + seconds
    for _ in range(plans):
        if time.monotonic() > end:
            break
        place, text = random_.choice(paths)
        text, path = mutated(random_, text, texts), place.with_name("fuzz.edge")
        met["plans"] += 1
        wrong += [(fault, text) for fault in faults(path, text, defines(random_), known)]
    return met, wrong


def main() -> int:
    """Print the figures; exit 1 when a plan was not checked as it has to be."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--plans", type=int, default=200_000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--seconds", type=float, default=float("inf"))
    given = arguments.parse_args()
    started = time.process_time()
    sys.stdout, out = open(os.devnull, "w"), sys.stdout  # noqa: SIM115 - used files may print
    met, wrong = campaign(given.plans, given.seed, given.seconds)
    sys.stdout = out
    for fault, text in wrong[:10]:
        print(f"{fault}\n{text!r}\n")
    print(f"{met['plans']} plans, {len(wrong)} faults, {time.process_time() - started:.0f} s of CPU")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
