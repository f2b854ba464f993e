"""A decoder of real size exported to ONNX with its past, beside its Hugging Face folder: the same files, time, memory.

    python benchmarks/exported_size.py --model FILE.gguf FOLDER

FOLDER keeps the Hugging Face folder (float32) that transformers reads out of the GGUF, and the export of it. Each is
compiled `as mnn` with int4 weights of blocks of 32, in a process of its own and a cache of its own. Prints seconds and
peak of memory of each compile, and which files of the two bundles differ. transformers, torch and gguf do the export.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLAN = """device host
model m {{ source = {source}  context = 512 }}
pipeline p {{ quantize (weights = int4, block = 32) }}
deploy m on cpu through p as mnn
"""
_COMPILE = """
import resource, sys
from edgec.compiler.cli import main

code = main(sys.argv[1:])
own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, max(own.ru_maxrss, children.ru_maxrss))
sys.exit(code)
"""


def folder_of(gguf: Path, folder: Path) -> Path:
    """The Hugging Face folder of a GGUF file."""
    made = folder / "hf"
    if not (made / "config.json").is_file():
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
        from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

        config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_config(config)
        held = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=model)["tensors"]
        model.load_state_dict(held, strict=False)  # the head is the embedding's
        model.tie_weights()
        model.save_pretrained(made)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(made)
    return made


def exported(hf: Path, folder: Path) -> Path:
    """The export of that folder, with the files of its tokenizer beside it."""
    file = folder / "onnx" / "model.onnx"
    if not file.is_file():
        sys.path.insert(0, str(ROOT))
        from tests.families.exported import export

        file.parent.mkdir(parents=True, exist_ok=True)
        for one in (*hf.glob("*.json"), *hf.glob("*.jinja")):
            shutil.copy(one, file.parent)
        export(hf, file, "sdpa")
    return file


def compiled(source: str, out: Path, cache: Path) -> tuple[float, float, float]:
    """Seconds that passed, seconds of CPU, and the peak of memory in MB of a compile in a process of its own."""
    plan = out.with_suffix(".edge")
    plan.write_text(PLAN.format(source=source), encoding="utf-8")
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, "compile", str(plan), "-o", str(out), "--quiet"],
        env={**os.environ, "EDGEC_CACHE": str(cache)}, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    cpu, peak = map(float, done.stdout.split()[-2:])
    return time.monotonic() - begun, cpu, peak / 1000


def digests(bundle: Path) -> dict[str, str]:
    """Digest of every file by its name, those that name plan, device and times aside."""
    files = (path for path in sorted(bundle.rglob("*")) if path.is_file())
    aside = ("report", "actions", "manifest", "device/")
    kept = (path for path in files if not path.relative_to(bundle).as_posix().startswith(aside))
    return {path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def main() -> None:
    """Print a line for each source, then one of the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    hf = folder_of(asked.model.resolve(), folder)
    file = exported(hf, folder)
    found = {}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for name, source in (("onnx", f'onnx("{file}")'), ("hf", f'hf("{hf}")')):
            seconds, cpu, peak = compiled(source, Path(scratch) / name, Path(scratch) / f"cache-{name}")
            found[name] = digests(Path(scratch) / name)
            print(
                f"{name:5} {seconds:6.1f} s, {cpu:6.1f} s of CPU, peak {peak:6.0f} MB, {len(found[name])} files",
                flush=True,
            )
    ours, theirs = found.values()
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    print("the same bytes" if not differing else f"different: {', '.join(differing)}")


if __name__ == "__main__":
    main()
