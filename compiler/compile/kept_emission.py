"""The files of one deploy line in the cache, so that no later compile writes them again.

    <cache>/emission/<key>/files/…         what an emitter wrote below the model's folder
    <cache>/emission/<key>/emission.json   what it said of them, for the manifest

Emissions with packed weights are not kept: what is packed is read from the module itself. Nor are those that were
written faster than a copy is (`emit_model`), but for an action, whose result they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from ..emit.stored_weight import StoredWeight
from ..emit.target import Emission
from ..files import cache
from ..files.full_disk import writes

KIND = "emission"
_FILES, _FACTS = "files", "emission.json"


def kept_emission(key: str, folder: Path) -> Emission | None:
    """The emission with its files put into `folder`; None if the cache has none of this key."""
    entry = cache.find(KIND, key)
    if entry is None:
        return None
    held = json.loads((entry / _FACTS).read_text(encoding="utf-8"))
    held["stored"] = {name: StoredWeight(**row) for name, row in held["stored"].items()}
    _copy(entry / _FILES, folder)
    return Emission(**held)


def keep_emission(key: str, folder: Path, made: Emission) -> None:
    """Keep the files of `folder` and what is said of them; nothing where that hangs on more than files."""
    if made.sparse:
        return

    def fill(entry: Path) -> None:
        facts = asdict(made)
        (entry / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
        _copy(folder, entry / _FILES)

    with contextlib.suppress(TypeError):  # a third party's emitter says something that JSON has no form for
        cache.make(KIND, key, fill)


def _copy(source: Path, into: Path) -> None:
    for root, _, names in os.walk(source):
        place = into / Path(root).relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            with writes(place / name):
                shutil.copyfile(Path(root) / name, place / name)
