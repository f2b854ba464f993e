"""Every file of every kind of cache entry damaged, then used: the bundle has to be the one of a healthy cache.

    python benchmarks/cache_damage.py [--only ort,gptq,…] [--entries N]

For each plan the cache is filled once. Then each file of its entries (of the first N of a kind) is flipped in one bit,
cut, emptied, and exchanged with another entry's; the same is compiled, run and verified again. Demanded: the same files
in the bundle, the same text, a warning (W0955) or no use of the file, and a cache that is whole again. The NPU compiler
itself gives one of several binaries for one input, so of its bundles everything but those is compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import edgec
from common import HELDOUT, QWEN2, ROOT, scratch
from edgec.compiler.diagnostics.diagnostic import Diagnostic
from edgec.compiler.diagnostics.warn import listening
from edgec.compiler.files import cache
from edgec.compiler.files.cache_contents import contents

HEAD = """plan damaged
device DEVICE
model m { source = SOURCE context = 64 }
calibration { text = "TEXT" samples = 2 length = 32 }
pipeline p { quantize(weights = int4, block = 32, MORE) except ["lm_head", "embed_tokens"] REST }
"""
BUCKET = 'place (device = cpu) on "embed_tokens"\n  bucket (tokens = [1, 8], context = [64])'
NPU = {"DEVICE": "snapdragon_8_gen_3", "REST": BUCKET}
MEASURED = 'evaluation { text = "TEXT" windows = 1 }\nrequire { m.perplexity <= 9 * baseline }\n'
AUTO = 'quantize(weights = auto, budget = 5 bits) except "lm_head"'
PLANS = {  # name -> what stands for the words in capitals, and the lines behind
    "gptq": ({"MORE": "method = gptq"}, f"deploy m on cpu through p as ort\n{MEASURED}"),
    "awq": ({"MORE": "method = awq"}, "deploy m on cpu through p as ort\n"),
    "auto": ({}, f"pipeline q {{ {AUTO} }}\ndeploy m on cpu through q as mnn\n"),
    "gguf": ({"SOURCE": 'gguf("m.gguf")', "MORE": "method = rtn"}, "deploy m on cpu through p as mnn\n"),
    "qnn": ({**NPU, "MORE": "method = rtn"}, "deploy m on npu through p as qnn\n"),
    "integers": ({**NPU, "MORE": "activations = uint16"}, "deploy m on npu through p as qnn\n"),
}


def write_plan(name: str, folder: Path) -> Path:
    """A plan that fills the kinds of entries its name says."""
    own, rest = PLANS[name]
    words = {"DEVICE": "host", "SOURCE": f'hf("{QWEN2}")', "MORE": "method = rtn", "REST": "", **own}
    text = HEAD + rest
    for word, value in {**words, "TEXT": str(HELDOUT)}.items():
        text = text.replace(word, value)
    path = folder / f"{name}.edge"
    path.write_text(text)
    if name == "gguf":
        sys.path.insert(0, str(ROOT))
        from tests.gguf_source.make_gguf import write_gguf

        write_gguf(QWEN2, folder / "m.gguf")
    return path


def flip(path: Path, _other: Path | None) -> None:
    """One bit in the middle, the time of change as it was: what a disk does."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 1] = bytes([data[len(data) // 2] ^ 1]) if data else b"x"
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(path: Path, _other: Path | None) -> None:
    """Half of it."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path, _other: Path | None) -> None:
    """Nothing, as after a power cut."""
    path.write_bytes(b"")


def swap(path: Path, other: Path | None) -> None:
    """What another entry of the kind (or else another file) has."""
    path.write_bytes(other.read_bytes() if other is not None else b"{}")


DAMAGES: tuple[Callable[[Path, Path | None], None], ...] = (flip, cut, empty, swap)


def files(most: int) -> Iterator[tuple[str, Path, Path | None]]:
    """(kind, file, another file to exchange it with) of the first `most` entries and notes of every kind."""
    by_kind: dict[str, list[Path]] = {}
    for held in sorted(contents(), key=lambda held: (held.kind, held.key)):
        by_kind.setdefault(held.kind, []).append(held.path)
    for kind, paths in by_kind.items():
        for path in paths[:most]:
            other = next((one for one in paths if one != path), None)
            for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
                twin = other / file.relative_to(path) if other is not None and path.is_dir() else other
                yield kind, file, twin if twin is not None and twin.is_file() else None


def used(plan: Path, bundle: Path, kind: str = "") -> dict[str, str]:
    """Compile, run and verify, as far as entries of `kind` are used by that; digests of what came out, and the text."""
    cache._fitting.clear()  # what another process would know: nothing
    found: dict[str, str] = {}
    if kind != "hashed":
        found |= compiled(plan, bundle)
    if kind in ("", "hashed", "sources", "qnn-target", "qnn-twin"):
        with edgec.open(bundle) as opened:
            found["text"] = opened.generate("def mean(", tokens=2).text
            if kind in ("", "sources"):
                found["ok"] = str(opened.verify().ok)
    return found


def compiled(plan: Path, bundle: Path) -> dict[str, str]:
    """The digest of every file of a new bundle; of one with an NPU's binary, of those that do not depend on it.

    The report and the manifest say that an entry was damaged (W0955); the rest of the manifest is compared.
    """
    made = edgec.compile(plan, bundle)
    npu = any(part["target"] == "qnn" for part in made.manifest["parts"].values())
    found = {} if npu else {"manifest": digest_of(made.manifest)}
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        name = path.relative_to(bundle).as_posix()
        said = name in ("report.html", "manifest.json", "manifest.sha256")
        if not said and (not npu or not (name.endswith(".bin") or "_ctx" in name)):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def digest_of(manifest: Mapping[str, Any]) -> str:
    """The digest of a manifest without its warnings, and without the digest of the report, which says them too."""
    files = {name: row for name, row in manifest["files"].items() if name != "report.html"}
    return hashlib.sha256(json.dumps({**manifest, "warnings": [], "files": files}).encode()).hexdigest()


def campaign(names: tuple[str, ...], most: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """(damages by kind, what went wrong)."""
    counted, wrong = Counter[str](), []
    for name in names:
        os.environ["EDGEC_CACHE"] = str(folder / name)
        plan = write_plan(name, folder)
        expected = used(plan, folder / "bundle")
        time.sleep(3)  # a file's hash is noted once it is older than the clock's step
        used(plan, folder / "bundle", "hashed")
        for kind, file, other in sorted(files(most), key=lambda row: row[0] != "hashed"):  # those of this very bundle
            for damage in DAMAGES:
                if not file.is_file():
                    continue
                healthy = file.read_bytes()
                damage(file, other)
                if file.read_bytes() == healthy:
                    continue
                said: list[Diagnostic] = []
                cache._said.clear()
                counted[kind] += 1
                what = f"{name}: {kind}/…/{file.name} {damage.__name__}"
                try:
                    with listening(said.append):
                        found = used(plan, folder / "bundle", kind)
                except Exception as error:
                    wrong.append(f"{what}: {type(error).__name__}: {error}")
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(healthy)
                    continue
                if others := [key for key in found if found[key] != expected.get(key)]:
                    wrong.append(f"{what}: another bundle: {others}")
                if "W0955" not in {one.code for one in said} and file.is_file() and file.read_bytes() != healthy:
                    print(f"  not used: {what}")
                    file.write_bytes(healthy)
    return counted, wrong


def main() -> int:
    """Print the figures; exit 1 when a damage was used."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--only", default=",".join(PLANS))
    arguments.add_argument("--entries", type=int, default=2, help="of each kind (default 2)")
    given, started = arguments.parse_args(), time.process_time()
    with scratch() as folder:
        counted, wrong = campaign(tuple(given.only.split(",")), given.entries, folder)
    for line in wrong:
        print(line)
    print(", ".join(f"{kind} {number}" for kind, number in sorted(counted.items())))
    print(f"{counted.total()} damages, {len(wrong)} wrong, {time.process_time() - started:.0f} s of CPU")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
