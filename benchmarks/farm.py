"""A compile as a graph of actions: the same bundle by four ways, within its memory, also after kills.

    python benchmarks/farm.py [--only ways,small,plan,kills] [--kills 20] [--memory 6GB] [--snakemake COMMAND]
                              [--real GGUF]

ways   12 QNN compiles (2 models x 3 chips x 2 parts), each way with an empty cache: in one process, `--jobs 2`, on
       two Dask workers, by the Snakefile (where COMMAND, such as ~/smk/bin/snakemake, is given); of small models, or
       of the one in GGUF, such as SmolLM2-135M's
small  what keeping results costs the small pair of examples/speculative, in CPU seconds; a compile with nothing to do
plan   10,000 actions that do nothing, planned; a 4B model for six chips on 1, 4, 16, 64 workers, simulated
kills  SIGKILL to the compile, to a Dask worker, to the scheduler at random moments: the next compile ends the work
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from common import EDGEC, QWEN2, ROOT, scratch
from edgec.compiler.actions.action import Action, Graph
from edgec.compiler.actions.scheduler import Limits, lower_bound, simulate
from edgec.compiler.bundle.manifest import load_manifest
from edgec.compiler.commands.sizes import read_size
from edgec.compiler.diagnostics.diagnostic import EdgecError
from edgec.compiler.driver import CompileOptions, compile_plan, keeping, load_plan
from edgec.compiler.files.cache_contents import contents
from edgec.compiler.verify.verify_bundle import file_problems
from processes import Watch

QWEN3 = QWEN2.parent / "pycode-qwen3"
PLAN = """plan farm
device {devices}
model a {{ source = hf("{a}") context = 64 }}
model b {{ source = hf("{b}") context = 64 }}
pipeline npu {{
  quantize (weights = int4, block = 32)
  place (device = cpu) on "embed_tokens"
  bucket (tokens = [1, 8], context = [64])
}}
deploy a on npu through npu as qnn {{ shard = 2 accept = [W0307, W0601] reason = "a benchmark" }}
deploy b on npu through npu as qnn {{ shard = 2 accept = [W0307, W0601] reason = "a benchmark" }}
"""
REAL = """plan farm
device {devices}
model a {{ source = gguf("{a}") context = 128 }}
model b {{ source = gguf("{a}") context = 128 }}
pipeline four {{
  quantize (weights = int4, block = 32)
  place (device = cpu) on "embed_tokens"
  bucket (tokens = [1, 16], context = [128])
}}
pipeline eight {{
  quantize (weights = int8)
  place (device = cpu) on "embed_tokens"
  bucket (tokens = [1, 16], context = [128])
}}
deploy a on npu through four as qnn {{ shard = 2 accept = [W0307, W0601] reason = "a benchmark" }}
deploy b on npu through eight as qnn {{ shard = 2 accept = W0601 reason = "a benchmark" }}
"""
THREE = "[sm8550, sm8650, sm8750]"
PAIR = ROOT / "examples" / "speculative" / "plan.edge"


def environment(folder: Path) -> dict[str, str]:
    """With a cache and temporary files in `folder`."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    return {**os.environ, "EDGEC_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp"), "PATH": path}


def run(words: list[object], folder: Path) -> tuple[float, int]:
    """Seconds of a command and the most that it and all below it held, bytes."""
    started = time.monotonic()
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen([str(word) for word in words], env=environment(folder), stdout=log, stderr=log)
        with Watch(psutil.Process(process.pid)) as watch:
            code = process.wait()
    if code:
        raise SystemExit(f"{shlex.join(map(str, words))} ended with {code}:\n{(folder / 'log').read_text()[-2000:]}")
    return time.monotonic() - started, max(share.peak for share in watch.shares.values())


@contextmanager
def dask(folder: Path, workers: int = 2) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and workers as processes; the address and they, the scheduler first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "dask").mkdir(parents=True, exist_ok=True)
    started = []

    def start(module: str, *words: str) -> None:
        with open(folder / "dask" / "log", "ab") as log:
            command = [sys.executable, "-m", f"distributed.cli.{module}", "--no-dashboard", *words]
            started.append(subprocess.Popen(command, env=environment(folder), cwd=folder, stdout=log, stderr=log))

    start("dask_scheduler", "--host", "127.0.0.1", "--port", str(port))
    for _ in range(workers):
        start("dask_worker", f"tcp://127.0.0.1:{port}", "--nthreads", "1", "--resources", "memory=3e9")
    try:
        yield f"dask://127.0.0.1:{port}", started
    finally:
        for process in started:
            with suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()


def ways(folder: Path, memory: str, snakemake: str | None, real: Path | None) -> int:
    """Print the figures of each way; how many are not as they should be."""
    plan = folder / "p.edge"
    text = (
        PLAN.format(devices=THREE, a=QWEN2, b=QWEN3) if real is None else REAL.format(devices=THREE, a=real.resolve())
    )
    plan.write_text(text)
    found: dict[str, tuple[float, int, Path]] = {}

    def one(name: str, *words: object) -> None:
        place = folder / name
        place.mkdir()
        before = cpu()
        seconds, peak = run([*EDGEC, "compile", plan, "-o", place / "b", "--quiet", *words], place)
        found[name] = (seconds, peak, place / "b")
        print(f"{name}: {cpu() - before:.1f} s of CPU", flush=True)

    one("one process")
    one("jobs 2", "--jobs", 2, "--memory", memory)
    with dask(folder / "two workers") as (address, _):
        place = folder / "two workers"
        words = [*EDGEC, "compile", plan, "-o", place / "b", "--quiet", "--on", address]
        seconds, peak = run(words, place)
        found["two workers"] = (seconds, peak, place / "b")
    if snakemake:
        place = folder / "snakemake"
        place.mkdir()
        written = [*EDGEC, "compile", plan, "-o", place / "b", "--emit", "snakemake", place / "s"]
        before, _ = run(written, place)
        megabytes = read_size(memory) // 1_000_000
        words = [*shlex.split(snakemake), "--directory", place / "s", "--snakefile", place / "s" / "Snakefile"]
        seconds, peak = run([*words, "--cores", 2, "--resources", f"mem_mb={megabytes}", "--quiet"], place)
        found["snakemake"] = (before + seconds, peak, place / "b")
    first = found["one process"]
    wrong = 0
    for name, (seconds, peak, bundle) in found.items():
        other = differing(first[2], bundle)
        wrong += bool(other) + (name == "jobs 2" and peak > read_size(memory))
        said = "the same bundle" if not other else f"other: {', '.join(other)}"
        print(f"{name}: {seconds:.1f} s, {seconds / first[0]:.2f} of one process, peak {peak / 1e9:.2f} GB, {said}")
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return wrong


def differing(one: Path, other: Path) -> list[str]:
    """The files of the manifests that are not the same in both."""
    files = [load_manifest(bundle).files for bundle in (one, other)]
    return sorted(name for name in {*files[0], *files[1]} if files[0].get(name) != files[1].get(name))


def small(folder: Path, rounds: int = 3) -> int:
    """What keeping results costs the small pair, and a compile with nothing to do."""
    plan, seconds = load_plan(PAIR), {"without": [], "with": []}
    options = {"without": CompileOptions(), "with": keeping(CompileOptions())}
    for number in range(rounds):
        for name, chosen in options.items():
            os.environ["EDGEC_CACHE"] = str(folder / f"{name}{number}")
            before = cpu()
            compile_plan(plan, folder / "bundle", chosen)
            seconds[name].append(cpu() - before)
    without, kept = (statistics.median(seconds[name]) for name in ("without", "with"))
    print(f"the small pair: {without:.2f} s of CPU, keeping results {kept:.2f} s ({kept - without:+.2f} s)")
    words = [*EDGEC, "compile", PAIR, "-o", folder / "again"]
    run(words, folder)
    took = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall, _ = run(words, folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall))
    least = min(took)
    print(f"nothing to do: {least[0]:.2f} s of CPU, {min(wall for _, wall in took):.2f} s by the clock, whole process")
    return int(kept - without > 0.2) + int(least[0] > 1)


def cpu() -> float:
    """CPU seconds of this process and of those it has waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def idle(name: str, needs: tuple[str, ...] = (), memory: float = 1.0, seconds: float = 1.0) -> Action:
    """An action that only the simulation runs."""
    return Action("compile", name, {"name": name}, needs, {}, memory, seconds)


def planned() -> int:
    """10,000 actions planned; schedules of a 4B compile for six chips beside what none can stay below."""
    started, graph, before = time.process_time(), Graph(), list[str]()
    for number in range(10_000):
        before.append(graph.add(idle(str(number), tuple(before[-2:]) if number % 3 else ())))
    simulate(graph, Limits(16))
    seconds = time.process_time() - started
    print(f"10,000 actions planned and simulated in {seconds:.2f} s of CPU")
    # docs/estimate.md: a compile of 1 B weights takes some 50 s and 5 bytes a weight; a shard of four has one billion
    wide, numbers = Graph(), random.Random(0)
    for form in range(4):
        solve = wide.add(idle(f"solve {form}", memory=3e9, seconds=900))
        lower = wide.add(idle(f"lower {form}", (solve,), 2e9, 60))
        for chip in range(6):
            for shard in range(4):
                name = f"compile {form} {chip} {shard}"
                wide.add(idle(name, (lower,), numbers.uniform(4e9, 6e9), numbers.uniform(130, 220)))
    worst = 0.0
    for workers in (1, 4, 16, 64):
        limits = Limits(workers, 8e9 * workers)
        ratio = simulate(wide, limits).makespan / lower_bound(wide, limits)
        worst = max(worst, ratio)
        print(f"{len(wide)} actions of a 4B model, six chips, four formats, {workers} workers: {ratio:.3f} (simulated)")
    return int(seconds > 5) + int(worst > 1.2)


def kills(folder: Path, rounds: int, seed: int) -> int:
    """End processes at random moments; every compile after that has to complete, and no action to run twice."""
    numbers = random.Random(seed)
    plan = folder / "p.edge"
    plan.write_text(PLAN.format(devices="[sm8550, sm8650]", a=QWEN2, b=QWEN3))
    faults = dict.fromkeys(("compile", "worker", "scheduler"), 0)
    for number in range(rounds):
        for victim in faults:
            place = folder / f"{victim}{number}"
            told = [f"{victim} {number}: {fault}" for fault in one_kill(plan, place, victim, numbers)]
            print(*told, sep="\n", end="\n" if told else "", flush=True)
            faults[victim] += len(told)
            shutil.rmtree(place, ignore_errors=True)
        print(f"kills of each so far: {number + 1}; wrong: {faults}", flush=True)
    return sum(faults.values())


def one_kill(plan: Path, place: Path, victim: str, numbers: random.Random) -> Iterator[str]:
    """One round with a cache of its own; what went wrong, in words."""
    place.mkdir()
    words = [*map(str, EDGEC), "compile", str(plan), "-o", str(place / "b"), "--quiet"]
    quiet, moment = subprocess.DEVNULL, numbers.uniform(1, 40)
    if victim == "compile":
        process = subprocess.Popen([*words, "--jobs", "2"], env=environment(place), stdout=quiet, stderr=quiet)
        wait(process, moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = ran(place)
        code = subprocess.run([*words, "--jobs", "2"], env=environment(place), capture_output=True, check=False)
    else:
        with dask(place) as (address, started):
            process = subprocess.Popen([*words, "--on", address], env=environment(place), stdout=quiet, stderr=quiet)
            wait(process, moment)
            started[0 if victim == "scheduler" else 1].kill()
            process.wait(600)
        done = ran(place)
        with dask(place) as (address, _):
            code = subprocess.run([*words, "--on", address], env=environment(place), capture_output=True, check=False)
    if code.returncode:
        yield f"the next compile ends with {code.returncode}: {code.stderr.decode()[-300:]}"
        return
    try:
        if problems := file_problems(load_manifest(place / "b")):
            yield "; ".join(problems)
    except EdgecError as error:
        yield str(error)
    again = [key for key, runs in ran(place).items() if runs > 1 and done.get(key, 0) >= 1]
    if again:
        yield f"{len(again)} finished actions were done again"
    os.environ["EDGEC_CACHE"] = str(place / "cache")
    damaged = [held.path for held in contents() if not held.path.exists()]
    if damaged:
        yield f"damaged: {damaged}"


def wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Until then, or until it has ended."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def ran(place: Path) -> dict[str, int]:
    """How often each action has run, by the notes in the cache."""
    found = {}
    for path in (place / "cache" / "action").glob("*/*.note"):
        line, _, digest = path.read_bytes().partition(b"\n")
        if hashlib.sha256(line).hexdigest().encode() == digest.strip():
            found[path.stem] = int(json.loads(json.loads(line)["text"])["runs"])
    return found


def main() -> int:
    """Print the figures; exit 1 where one is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="ways,small,plan,kills")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--memory", default="6GB")
    parser.add_argument("--snakemake", metavar="COMMAND")
    parser.add_argument(
        "--real", type=Path, metavar="GGUF", help="a model that is compiled as int4 and as int8 instead"
    )
    parser.add_argument("--seed", type=int, default=0)
    given, wrong = parser.parse_args(), 0
    with scratch() as folder:
        for name in given.only.split(","):
            place = folder / name
            place.mkdir()
            if name == "ways":
                wrong += ways(place, given.memory, given.snakemake, given.real)
            elif name == "small":
                wrong += small(place)
            elif name == "plan":
                wrong += planned()
            else:
                wrong += kills(place, given.kills, given.seed)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
