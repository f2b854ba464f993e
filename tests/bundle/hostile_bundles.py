"""Bundles as an enemy would make them: manifest, engine configs, templates, tokenizers, changed and sealed again.

    python tests/bundle/hostile_bundles.py BUNDLE…      every case, each in `edgec run` and in a process of its own

A case holds if edgec ends by itself, with a coded diagnostic or a result, no traceback, no E0993, nothing written
outside its own folders. Prints what does not hold, and counts.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

VALUES: dict[str, Any] = {
    "gone": ...,
    "null": None,
    "zero": 0,
    "negative": -1,
    "huge": 10**12,
    "beyond": 10**30,
    "half": 0.5,
    "nan": float("nan"),
    "text": "x",
    "empty": "",
    "up": "../../etc/hostname",
    "absolute": "/etc/hostname",
    "control": "a\x1b[31m\nerror[E0000]: forged",
    "long": "a" * 20_000,
    "format": "{layer:>3000000000}",
    "list": [],
    "object": {},
    "true": True,
}
JINJA = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "join": "{{ ('x' * 9999999) * 9999 }}",
    "zero": "{{ 1 // 0 }}",
    "overflow": "{{ 9.0 ** 9999 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "range": "{{ range(10**12) | list }}",
    "class": "{{ ''.__class__.__mro__ }}",
    "include": "{% include '/etc/passwd' %}",
    "unknown": "{% frobnicate %}",
    "unclosed": "{% for a in",
}
TOKENIZER: dict[str, Callable[[dict[str, Any]], object]] = {
    "padding": lambda t: t.update(
        padding={
            "strategy": {"Fixed": 10**10},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        }
    ),
    "normalizer": lambda t: t.update(
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 1000}] * 6,
        }
    ),
    "model": lambda t: t.update(model={"type": "None"}),
    "vocab": lambda t: t["model"].update(vocab={}),
    "decoder": lambda t: t.update(decoder={"type": "Replace", "pattern": {"String": "e"}, "content": "y" * 10**6}),
}


def seal(bundle: Path, change: Callable[[dict[str, Any]], object] = lambda _data: None, files: bool = True) -> None:
    """Change the manifest of `bundle` and make every hash right again."""
    path = bundle / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    if files:
        inside = [p for p in sorted(bundle.rglob("*")) if p.is_file() and not p.name.startswith("manifest.")]
        data["files"] = {
            p.relative_to(bundle).as_posix(): {
                "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
                "size": p.stat().st_size,
            }
            for p in inside
        }
    change(data)
    raw = json.dumps(data).encode()
    path.write_bytes(raw)
    (bundle / "manifest.sha256").write_text(hashlib.sha256(raw).hexdigest() + "  manifest.json\n")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON document; of a list only the first and the last item."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} if value else ()):
            yield from places(value[index], (*path, index))


def put(data: Any, path: tuple[Any, ...], value: Any) -> None:
    """Set or remove the value at `path`."""
    *way, last = path
    for step in way:
        data = data[step]
    if value is ...:
        del data[last]
    else:
        data[last] = copy.deepcopy(value)


def manifest_cases(data: dict[str, Any]) -> Iterator[tuple[str, Callable[[dict[str, Any]], object]]]:
    """(name, change) for every place that a runner reads, with every value above."""
    read = [
        path
        for path in places(data)
        if path[0] in ("models", "parts", "tokenizers", "speculation", "files", "sampling")
    ]
    for path in read:
        if "weights" in path and len(path) > 4:
            continue
        for name, value in VALUES.items():
            yield f"{'.'.join(map(str, path))}={name}", lambda found, path=path, value=value: put(found, path, value)


def file_cases(bundle: Path) -> Iterator[tuple[str, Callable[[Path], object], list[str]]]:
    """(name, change, extra arguments) for configs of engines, templates and tokenizers."""
    for config in sorted([*bundle.glob("*/config.json"), *bundle.glob("*/llm_config.json")]):
        inside = config.relative_to(bundle)
        found = json.loads(config.read_text(encoding="utf-8"))
        for path in [*places(found), ("tmp_path",), ("base_dir",), ("use_mmap",), ("llm_config",), ("mllm",)]:
            for name in ("gone", "null", "negative", "huge", "text", "up", "absolute", "object", "true"):
                if name == "gone" and path[-1] not in (found if len(path) == 1 else found[path[0]]):
                    continue

                def change(copy: Path, inside: Path = inside, path: Any = path, name: str = name) -> None:
                    data = json.loads((copy / inside).read_text(encoding="utf-8"))
                    put(data, path, VALUES[name])
                    (copy / inside).write_text(json.dumps(data))

                yield f"{inside}:{'.'.join(map(str, path))}={name}", change, []
    yield from archive_cases(bundle)
    for folder in sorted(path.parent for path in bundle.glob("*/tokenizer.json")):
        inside = folder.relative_to(bundle)
        for name, text in JINJA.items():
            yield (
                f"template:{name}",
                lambda copy, text=text, inside=inside: (copy / inside / "chat_template.jinja").write_text(text),
                ["--chat"],
            )
        for name, edit in TOKENIZER.items():

            def change(copy: Path, edit: Callable = edit, inside: Path = inside) -> None:
                path = copy / inside / "tokenizer.json"
                data = json.loads(path.read_text(encoding="utf-8"))
                edit(data)
                path.write_text(json.dumps(data))

            yield f"tokenizer:{name}", change, []


def archive_cases(bundle: Path) -> Iterator[tuple[str, Callable[[Path], object], list[str]]]:
    """(name, change, no arguments) for the graphs that are carried beside a context binary.

    The manifest names graphs that no cache has, so that they are read.
    """
    for archive in sorted(bundle.glob("*/*.graphs.zip")):
        inside = archive.relative_to(bundle)
        with zipfile.ZipFile(archive) as carried:
            members = {name: carried.read(name) for name in carried.namelist()}
        index = json.loads(members["index.json"])
        index["weights"] = index["weights"][:1]  # whose values are changed; one is as good as another
        for path in places(index):
            for name, value in VALUES.items():

                def change(
                    copy: Path, inside: Path = inside, path: Any = path, value: Any = value, members: Any = members
                ) -> None:
                    data = json.loads(members["index.json"])
                    put(data, path, value)
                    _archive(copy / inside, {**members, "index.json": json.dumps(data).encode()})

                yield f"{inside}:{'.'.join(map(str, path))}={name}", change, []
        for name in members:
            for how, content in {"empty": b"", "cut": members[name][:-9], "garbage": b"\xff" * 999}.items():

                def spoil(
                    copy: Path,
                    inside: Path = inside,
                    name: str = name,
                    content: bytes = content,
                    members: Any = members,
                ) -> None:
                    _archive(copy / inside, {**members, name: content})

                yield f"{inside}:{name} {how}", spoil, []


def _archive(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(name, content)
    manifest = path.parents[1] / "manifest.json"
    data = json.loads(manifest.read_text(encoding="utf-8"))
    for part in data["parts"].values():
        if "twins" in part.get("details", {}):
            part["details"]["twins"] = hashlib.sha256(part["details"]["twins"].encode()).hexdigest()
    manifest.write_text(json.dumps(data))


def verdict(done: subprocess.CompletedProcess[str] | None) -> str | None:
    """What is wrong with how edgec took a case; None if nothing is."""
    if done is None:
        return "did not end"
    said = done.stdout + done.stderr
    if done.returncode < 0 or done.returncode not in (0, 1, 3, 4):
        return f"exit {done.returncode}"
    for sign in ("Traceback", "E0993", "forged\n", "\x1b[31m"):
        if sign in said:
            return f"{sign!r}: {said[-400:]}"
    return None if done.returncode == 0 or "error[" in said else f"no diagnostic: {said[-200:]}"


def run(bundle: Path, extra: list[str], folder: Path) -> str | None:
    """`edgec run` of a changed bundle, with nothing to write to but `folder`."""
    before = set(folder.rglob("*"))
    words = [sys.executable, "-m", "edgec", "run", str(bundle), "--prompt", "def", "--tokens", "1", *extra]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=150, check=False, errors="replace")
    except subprocess.TimeoutExpired:
        done = None
    new = [path for path in folder.rglob("*") if path not in before and bundle not in path.parents]
    return verdict(done) or (f"wrote {new[:3]}" if new else None)


def main(bundles: list[str], every: int = 1) -> int:
    """Run every `every`th manifest case and all others of each bundle."""
    cases = wrong = 0
    with tempfile.TemporaryDirectory(prefix="hostile-") as made:
        folder = Path(made)
        os.environ.setdefault("EDGEC_CACHE", str(folder.parent / "hostile-cache"))
        for name in bundles:
            original = Path(name).resolve()
            data = json.loads((original / "manifest.json").read_text(encoding="utf-8"))
            model = (data["speculation"] or {}).get("target") or next(iter(data["models"]))
            todo = [(case, None, change, []) for case, change in list(manifest_cases(data))[::every]]
            todo += [(case, change, None, extra) for case, change, extra in file_cases(original)]
            for case, on_files, on_manifest, extra in todo:
                bundle = folder / "b"
                shutil.rmtree(bundle, ignore_errors=True)
                shutil.copytree(original, bundle)
                if on_files is not None:
                    on_files(bundle)
                seal(bundle, on_manifest or (lambda _data: None), files=on_files is not None)
                problem = run(bundle, [*extra, "--model", model] if model in data["models"] else extra, folder)
                cases += 1
                if problem is not None:
                    wrong += 1
                    print(f"{name} {case}: {problem}", flush=True)
    print(f"{cases} bundles, {wrong} not taken as they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    every = int(os.environ.get("EVERY", "1"))
    sys.exit(main(sys.argv[1:], every))
