"""Compiles ended at random moments, by every signal: no partial bundle, and nothing left after the next command.

    python benchmarks/kills.py [--rounds 75] [--seed 0] [--plans ort,gptq,qnn]

Each round begins with no output or with an old bundle, with an empty or a full cache; the signal goes to the process or
to its whole group at a random moment of a compile's time. Demanded: the output is absent, the old bundle or a complete
new one; the exit code is the signal's; after INT, TERM and HUP nothing is left at once, after KILL nothing is left by
the next compile, in the output's folder, among the temporary files and in the cache; no process outlives its parent.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from common import EDGEC, HELDOUT, QWEN2, scratch
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.verify.verify_bundle import file_problems

HEAD = f'plan killed\ndevice DEVICE\nmodel m {{ source = hf("{QWEN2}") context = 64 }}\n'
EXCEPT = 'except ["lm_head", "embed_tokens"]'
PLANS = {
    "ort": f"pipeline p {{ quantize(weights = int4, block = 32) {EXCEPT} }}\ndeploy m on cpu through p as ort\n",
    "gptq": f'calibration {{ text = "{HELDOUT}" samples = 2 length = 32 }}\n'
    f"pipeline p {{ quantize(weights = int4, block = 32, method = gptq) {EXCEPT} }}\n"
    "deploy m on cpu through p as mnn\n",
    "qnn": f"pipeline p {{ quantize(weights = int4, block = 32) {EXCEPT}\n"
    'place (device = cpu) on "embed_tokens"\nbucket (tokens = [1, 8], context = [64]) }\n'
    "deploy m on npu through p as qnn\n",
}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
SLACK = 30.0  # seconds in which a signalled compile has to end


class Place:
    """Folders of one campaign, and the compile that is ended in them."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.out = folder, folder / "out"
        self.temporary, self.cache = folder / "tmp", folder / "cache"
        self.plan = folder / "p.edge"
        for path in (self.out, self.temporary):
            path.mkdir(parents=True)
        self.plan.write_text(HEAD.replace("DEVICE", "snapdragon_8_gen_3" if name == "qnn" else "host") + PLANS[name])

    def start(self) -> subprocess.Popen[bytes]:
        """A compile in a session of its own."""
        words = [*EDGEC, "compile", self.plan, "-o", self.out / "b", "--quiet"]
        env = {**os.environ, "EDGEC_CACHE": str(self.cache), "TMPDIR": str(self.temporary)}
        quiet = subprocess.DEVNULL
        return subprocess.Popen(words, env=env, stdout=quiet, stderr=quiet, start_new_session=True)

    def bundle(self) -> str:
        """`absent`, `whole`, or what is wrong with the bundle."""
        if not (self.out / "b").exists():
            return "absent"
        try:
            problems = file_problems(load_manifest(self.out / "b"))
        except EdgecError as error:
            return str(error)
        return "; ".join(problems) or "whole"

    def left(self) -> list[str]:
        """What lies about that is neither the bundle nor an entry of the cache."""
        found = [*self.temporary.iterdir(), *(path for path in self.out.iterdir() if path.name != "b")]
        found += (self.cache / ".scratch").iterdir() if (self.cache / ".scratch").exists() else []
        return [str(path.relative_to(self.folder)) for path in found]


def orphans(session: int) -> list[str]:
    """Processes of a session that are still there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(path.parent.name)
    return found


def one_round(place: Place, random_: random.Random, seconds: float) -> Iterator[str]:
    """End one compile; what went wrong, in words."""
    if random_.random() < 0.5:
        shutil.rmtree(place.out / "b", ignore_errors=True)
    if random_.random() < 0.5:
        shutil.rmtree(place.cache, ignore_errors=True)
    number, group = random_.choice(SIGNALS), random_.random() < 0.3
    before = place.left()  # of a KILL: it is the next compile's to remove, if that comes so far
    process = place.start()
    time.sleep(random_.uniform(0, seconds))
    (os.killpg if group else os.kill)(process.pid, number)
    what = f"{number.name}{' to the group' if group else ''}"
    try:
        code = process.wait(SLACK)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        yield f"{what}: did not end within {SLACK:g} s"
        return
    if code not in (0, -number, 128 + number):
        yield f"{what}: exit code {code}"
    if (state := place.bundle()) not in ("absent", "whole"):
        yield f"{what}: {state}"
    left = [path for path in place.left() if path not in before]
    if number is not signal.SIGKILL and code != -number and left:
        yield f"{what}: left at once: {left}"
    end = time.monotonic() + SLACK
    while (alive := orphans(process.pid)) and time.monotonic() < end:
        time.sleep(0.1)
    if alive:
        yield f"{what}: processes {alive} outlive it"


def campaign(name: str, rounds: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """What became of the bundles, and what went wrong."""
    random_, met, wrong = random.Random(seed), Counter[str](), []
    place = Place(folder / name, name)
    started = time.monotonic()
    if place.start().wait() != 0:
        return met, ["the plan does not compile"]
    seconds = time.monotonic() - started
    for number in range(rounds):
        wrong += [f"{name} {number}: {fault}" for fault in one_round(place, random_, seconds)]
        met[place.bundle()] += 1
        if number % 5 == 4 or number == rounds - 1:
            if place.start().wait() != 0 or place.bundle() != "whole":
                wrong.append(f"{name} {number}: the next compile fails")
            if left := place.left():
                wrong.append(f"{name} {number}: left after the next compile: {left}")
    return met, wrong


def main() -> int:
    """Print the figures; exit 1 when a kill did harm."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--rounds", type=int, default=75)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--plans", default=",".join(PLANS))
    given = arguments.parse_args()
    names, harm = given.plans.split(","), 0
    with scratch() as folder:
        for name in names:
            met, wrong = campaign(name, -(-given.rounds // len(names)), given.seed, folder)
            print(*wrong, sep="\n", end="\n" if wrong else "")
            print(f"{name}: {met.total()} kills, {dict(met)}, {len(wrong)} wrong")
            harm += len(wrong)
    return 1 if harm else 0


if __name__ == "__main__":
    sys.exit(main())
