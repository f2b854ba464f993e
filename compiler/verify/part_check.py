"""Look into the files of one part: what they hold beside what the manifest says of them.

The answer hangs on the files and the entry alone, so it can be found apart, by any process, and kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..bundle.manifest import Manifest
from ..runtime.engines import target_of
from ..runtime.on_device import for_device

PartOf = tuple[str, str]  # a part, and the chip whose files are meant


def check_part(bundle: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """`problems`, a sentence each, and how many bytes of weights were `read_back` (None: the target reads none)."""
    target = target_of(entry)
    problems = [*target.verify_part(bundle, entry)]
    read, wrong = target.weights_read_back(bundle, entry)
    return {"problems": [*problems, *wrong], "read_back": read}


def parts_of_chips(manifest: Manifest) -> Iterator[tuple[PartOf, dict[str, Any]]]:
    """Every part with its entry, of every chip that it has files of its own for."""
    chips = [one["name"] for one in manifest.data["devices"]]
    for chip in chips:
        own = for_device(manifest, chip)
        for name, part in manifest.parts.items():
            if "chips" in part or chip == chips[0]:
                yield (name, chip), own.part(name)
