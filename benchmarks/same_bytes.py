"""How many different context binaries the HTP compiler makes of the same graphs, by how its process is started.

    python benchmarks/same_bytes.py [--folder FOLDER_OF_AN_ENTRY] [--compiles 20] [--only WAY]

FOLDER holds target-level graphs, such as an entry of `<cache>/qnn-target`; by default pycode-qwen2 is lowered.
The ways take turns, so that a machine that gets busy is busy for all.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from edgec.compiler.emit.child_process import Child
from edgec.compiler.plan.devices import devices
from edgec.targets.qnn.htp.chip import Chip
from edgec.targets.qnn.htp.context_binary import WORKER, start_worker

ROOT = Path(__file__).resolve().parents[1]
PLAN = """
plan same_bytes
device snapdragon_8_gen_3
model m {{ source = hf("{model}")  context = 64 }}
pipeline p {{
    quantize (weights = int4, block = 32) except ["lm_head", "embed_tokens"]
    place (device = cpu) on "embed_tokens"
    bucket (tokens = [1, 16], context = [64])
}}
deploy m on npu through p as qnn
"""


def lowered(work: Path) -> Path:
    """The target-level graphs of pycode-qwen2 in two buckets, out of the cache a compile leaves in `work`."""
    from edgec import compile as compile_plan

    os.environ["EDGEC_CACHE"] = str(work / "cache")
    plan = work / "plan.edge"
    plan.write_text(PLAN.format(model=ROOT / "examples" / "models" / "pycode-qwen2"), encoding="utf-8")
    compile_plan(plan, work / "bundle")
    return next((work / "cache" / "qnn-target").glob("*/*"))


WAYS: dict[str, Callable[[], Child]] = {
    "as the system starts it": lambda: Child(WORKER, what="the HTP compiler"),
    "memory cleared": lambda: start_worker("the HTP compiler"),
    "memory cleared, fixed addresses": lambda: start_worker("the HTP compiler", fixed=True),
}


def once(folder: Path, start_child: Callable[[], Child]) -> tuple[str, float]:
    """Digest of the binary of all graphs in `folder`, and the seconds it took."""
    chip = {key: value for key, value in asdict(Chip.of(devices()["snapdragon_8_gen_3"])).items() if key != "name"}
    graphs = sorted((path.stem for path in folder.glob("*.onnx")), key=lambda name: (len(name), name))  # t1 first
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for path in folder.iterdir():
            shutil.copy(path, work / path.name)
        start = time.monotonic()
        with start_child() as child:
            child.call("compile", folder=name, graphs=graphs, share=len(graphs) > 1, **chip)
        seconds = time.monotonic() - start
        return hashlib.sha256(next(work.glob("*.bin")).read_bytes()).hexdigest()[:8], seconds


def main() -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--compiles", type=int, default=20)
    parser.add_argument("--only", choices=WAYS, help="this way alone; the last is the one that ships")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = arguments.folder or lowered(Path(work))
        ways = {arguments.only: WAYS[arguments.only]} if arguments.only else WAYS
        found: dict[str, list[tuple[str, float]]] = {way: [] for way in ways}
        for _ in range(arguments.compiles):
            for way, start_child in ways.items():
                found[way].append(once(folder, start_child))
    for way, made in found.items():
        counts = Counter(digest for digest, _ in made)
        shares = " : ".join(str(count) for _, count in counts.most_common())
        mean = sum(seconds for _, seconds in made) / len(made)
        print(f"{way}: {len(counts)} different of {len(made)} ({shares}), {mean:.2f} s each")


if __name__ == "__main__":
    main()
