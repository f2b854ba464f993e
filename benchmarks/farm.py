"""A compile as a graph of actions: the same bundle by four ways, within its memory, also after kills.

    python benchmarks/farm.py [--only ways,small,plan,kills] [--kills 20] [--memory 6GB] [--snakemake COMMAND]
                              [--real GGUF] [--rounds N]

ways   12 QNN compiles (2 models x 3 chips x 2 parts), each way with an empty cache: in one process, `--jobs 2`, on
       two Dask workers that were there before, by the Snakefile (where COMMAND, such as ~/smk/bin/snakemake, is
       given); of small models, or of the one in GGUF, such as SmolLM2-135M's
small  what keeping results costs the small pair of examples/speculative, in CPU seconds; a compile with nothing to do
plan   10,000 actions that do nothing, planned; a 4B model for six chips on 1, 4, 16, 64 workers, simulated
kills  SIGKILL to the compile, to a Dask worker (to its process or to the nanny that watches it), to the scheduler at
       random moments of the time that each takes when nobody ends it: the next compile ends the work, makes the
       bundle of the first, and does nothing again
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
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from common import EDGEC, QWEN2, ROOT, scratch
from edgec.compiler.actions.action import Action, Graph
from edgec.compiler.actions.dask_engine import probe, served, worker_imports
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
model a {{ source = {a} context = {context} }}
model b {{ source = {b} context = {context} }}
pipeline one {{ quantize (weights = int4, block = 32) {shape} }}
pipeline two {{ quantize (weights = {second}) {shape} }}
deploy a on npu through one as qnn {{ shard = 2 accept = [W0307, W0601] reason = "a benchmark" }}
deploy b on npu through two as qnn {{ shard = 2 accept = [{accept}] reason = "a benchmark" }}
"""
SHAPE = 'place (device = cpu) on "embed_tokens" bucket (tokens = [1, {tokens}], context = [{context}])'
THREE = "[sm8550, sm8650, sm8750]"
PAIR = ROOT / "examples" / "speculative" / "plan.edge"


def plan_text(devices: str, real: Path | None = None) -> str:
    """Two small models in 4 bits; of a GGUF, the one model in 4 and in 8 bits."""
    if real is None:
        models, form, sizes = [f'hf("{path}")' for path in (QWEN2, QWEN3)], "int4, block = 32", (64, 8)
    else:
        models, form, sizes = [f'gguf("{real.resolve()}")'] * 2, "int8", (128, 16)
    shape = SHAPE.format(tokens=sizes[1], context=sizes[0])
    accept = "W0307, W0601" if real is None else "W0601"
    a, b = models
    return PLAN.format(devices=devices, a=a, b=b, context=sizes[0], second=form, shape=shape, accept=accept)


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
    """A scheduler and workers as processes that have imported what actions need; the address and they, the scheduler
    first.
    """
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
        warm(f"tcp://127.0.0.1:{port}", workers, folder / "cache")
        yield f"dask://127.0.0.1:{port}", started
    finally:
        for process in started:
            with suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()


def warm(address: str, workers: int, folder: Path) -> None:
    """Wait for the workers, and let them import what they do once, as workers that have been at work before have."""
    import distributed

    settings = {"cache": str(folder.resolve()), "store": None, "imports": worker_imports(["qnn"])}
    with distributed.Client(address, timeout=300) as client:
        client.wait_for_workers(workers, timeout=300)
        client.run(probe, None, settings)
        client.run(served, settings)


@dataclass
class Way:
    """One way through the compile: what it took, and where its bundle is."""

    seconds: float
    cpu: float
    peak: int
    bundle: Path


def ways(folder: Path, memory: str, snakemake: str | None, real: Path | None, rounds: int) -> int:
    """Print the figures of each way, one after the other in each round; how many are not as they should be."""
    plan, wrong, ratios = folder / "p.edge", 0, dict[str, list[float]]()
    plan.write_text(plan_text(THREE, real))
    for number in range(rounds):
        found = one_round(plan, folder / str(number), memory, snakemake)
        first = found["one process"]
        print(f"one process uses {first.cpu / first.seconds:.2f} cores", flush=True)
        for name, way in found.items():
            ratios.setdefault(name, []).append(way.seconds / first.seconds)
            other = differing(first.bundle, way.bundle)
            wrong += bool(other) + (name == "jobs 2" and way.peak > read_size(memory))
            said = "the same bundle" if not other else f"other: {', '.join(other)}"
            of = f"{ratios[name][-1]:.2f} of one process, {way.cpu:.1f} s of CPU"
            print(f"{name}: {way.seconds:.1f} s, {of}, peak {way.peak / 1e9:.2f} GB, {said}", flush=True)
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
        shutil.rmtree(folder / str(number))
    told = [f"{name} {statistics.median(held):.2f}" for name, held in ratios.items() if name != "one process"]
    print(f"of one process, the middle of {rounds}: {', '.join(told)}")
    return wrong


def one_round(plan: Path, folder: Path, memory: str, snakemake: str | None) -> dict[str, Way]:
    """Every way once, each with an empty cache."""
    found: dict[str, Way] = {}

    def one(name: str, *words: object, command: list[object] | None = None) -> None:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        before = cpu()
        own = [*EDGEC, "compile", plan, "-o", place / "b", "--quiet", *words]
        seconds, peak = run(own if command is None else command, place)
        found[name] = Way(seconds, cpu() - before, peak, place / "b")

    one("one process")
    one("jobs 2", "--jobs", 2, "--memory", memory)
    with dask(folder / "two workers") as (address, started):
        before = below(started)
        one("two workers", "--on", address)
        found["two workers"].cpu += below(started) - before
    if snakemake:
        place = folder / "snakemake"
        one("snakemake", "--emit", "snakemake", place / "s")
        written = found["snakemake"]
        megabytes = read_size(memory) // 1_000_000
        words = [*shlex.split(snakemake), "--directory", place / "s", "--snakefile", place / "s" / "Snakefile"]
        one("snakemake", command=[*words, "--cores", 2, "--resources", f"mem_mb={megabytes}", "--quiet"])
        found["snakemake"].seconds += written.seconds
    return found


def below(processes: list[subprocess.Popen[bytes]]) -> float:
    """CPU seconds of processes, of those below them, and of all that these have waited for."""
    found = 0.0
    for process in processes:
        with suppress(psutil.Error):
            for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                found += sum(one.cpu_times()[:4])
    return found


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


@dataclass(frozen=True)
class Uncut:
    """A compile that nobody ended: how long it took, and the files of its bundle."""

    seconds: float
    files: dict[str, Any]


def uncut(plan: Path, place: Path, on_dask: bool) -> Uncut:
    """A compile in `place`, with a cache of its own."""
    place.mkdir()
    if on_dask:
        with dask(place) as (address, _):
            seconds, _ = run([*EDGEC, "compile", plan, "-o", place / "b", "--on", address], place)
    else:
        seconds, _ = run([*EDGEC, "compile", plan, "-o", place / "b", "--jobs", 2], place)
    return Uncut(seconds, load_manifest(place / "b").files)


def kills(folder: Path, rounds: int, seed: int, patience: float) -> int:
    """End processes at random moments; every compile after that has to complete, and no action to run twice."""
    numbers = random.Random(seed)
    plan = folder / "p.edge"
    plan.write_text(plan_text("[sm8550, sm8650]"))
    alone, farmed = uncut(plan, folder / "alone", False), uncut(plan, folder / "farmed", True)
    print(f"when nobody ends it: --jobs 2 {alone.seconds:.1f} s, on Dask {farmed.seconds:.1f} s", flush=True)
    faults, met = dict.fromkeys(("compile", "worker", "scheduler"), 0), 0
    for number in range(rounds):
        for victim in faults:
            place, whole = folder / f"{victim}{number}", alone if victim == "compile" else farmed
            # drawn from the whole of it: the start, actions, the bundle put together, and the seal
            moment = numbers.uniform(0, whole.seconds)
            killed = one_kill(plan, place, victim, moment, whole, numbers, patience)
            told = [f"{victim} {number}, {moment:.2f} s: {fault}" for fault in killed.faults]
            print(*told, sep="\n", end="\n" if told else "", flush=True)
            faults[victim] += len(told)
            met += killed.met
            shutil.rmtree(place, ignore_errors=True)
        print(f"kills of each so far: {number + 1}, {met} met a running compile; wrong: {faults}", flush=True)
    return sum(faults.values())


@dataclass
class Killed:
    """Whether the compile still ran when it was killed, and what went wrong, in words."""

    met: bool
    faults: list[str]


def one_kill(
    plan: Path, place: Path, victim: str, moment: float, whole: Uncut, numbers: random.Random, patience: float
) -> Killed:
    """One round with a cache of its own."""
    place.mkdir()
    words = [*map(str, EDGEC), "compile", str(plan), "-o", str(place / "b")]
    faults: list[str] = []
    if victim == "compile":
        process = begun([*words, "--jobs", "2"], place)
        met = waited(process, moment) is None
        process.kill()
        process.wait()
        done = ran(place)
        code = waited(process := begun([*words, "--jobs", "2"], place), patience)
        end_tree(process)
    else:
        with dask(place) as (address, started):
            process = begun([*words, "--on", address], place)
            met = waited(process, moment) is None
            chosen = psutil.Process(started[0 if victim == "scheduler" else 1].pid)
            if victim == "worker" and numbers.random() < 0.5:  # what works; its nanny starts another
                chosen = max(chosen.children(), key=lambda child: child.memory_info().rss)
            chosen.kill()
            if waited(process, patience) is None:
                faults.append(f"it had not ended {patience:g} s after the kill: {printed(place)}")
                end_tree(process)
        done = ran(place)
        with dask(place) as (address, _):
            code = waited(process := begun([*words, "--on", address], place), patience)
            end_tree(process)
    if code is None:
        faults.append(f"the next compile has not ended in {patience:g} s: {printed(place)}")
    elif code:
        faults.append(f"the next compile ends with {code}: {printed(place)}")
    else:
        faults += left_wrong(place, whole, done)
    return Killed(met, faults)


def left_wrong(place: Path, whole: Uncut, done: dict[str, int]) -> Iterator[str]:
    """What is wrong with a bundle and a cache after a kill and another compile; `done` had run before that."""
    try:
        manifest = load_manifest(place / "b")
        if problems := file_problems(manifest):
            yield "; ".join(problems)
        other = sorted(name for name in whole.files if manifest.files.get(name) != whole.files[name])
        # QNN's compiler gives other bytes under load: such a binary is judged by what it holds
        if binaries := [name for name in other if name.endswith(".bin")]:
            code = begun([*map(str, EDGEC), "verify", str(place / "b")], place).wait()
            print(f"other bytes, verified with {code}: {', '.join(binaries)}", flush=True)
            if code:
                yield f"`edgec verify` ends with {code}: {printed(place)}"
        if others := [name for name in other if name not in binaries]:
            yield f"other than when nobody ended it: {', '.join(others)}"
    except EdgecError as error:
        yield str(error)
    again = [key for key, runs in ran(place).items() if runs > 1 and done.get(key, 0) >= 1]
    if again:
        yield f"{len(again)} finished actions were done again"
    os.environ["EDGEC_CACHE"] = str(place / "cache")
    damaged = [f"{held.kind} {held.key[:12]}: {wrong}" for held in contents() if (wrong := held.damage) is not None]
    if damaged:
        yield f"damaged: {'; '.join(damaged)}"


def begun(words: list[str], place: Path) -> subprocess.Popen[bytes]:
    """A command that prints into a file of its folder."""
    with open(place / "printed", "wb") as log:
        return subprocess.Popen(words, env=environment(place), stdout=log, stderr=log)


def printed(place: Path) -> str:
    """The end of what the last command printed."""
    return (place / "printed").read_text(errors="replace")[-400:]


def waited(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """How it ended; None if it has not after these seconds."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a command that is still there, and all below it."""
    with suppress(psutil.Error):
        for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            one.kill()
    process.wait()


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
    parser.add_argument("--rounds", type=int, default=1, help="of the ways, one after the other in each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=600, metavar="S", help="that a compile may take after a kill")
    given, wrong = parser.parse_args(), 0
    with scratch() as folder:
        for name in given.only.split(","):
            place = folder / name
            place.mkdir()
            if name == "ways":
                wrong += ways(place, given.memory, given.snakemake, given.real, given.rounds)
            elif name == "small":
                wrong += small(place)
            elif name == "plan":
                wrong += planned()
            else:
                wrong += kills(place, given.kills, given.seed, given.patience)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
