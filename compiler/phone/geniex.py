"""GenieX's bundle layout: beside a `genie_config.json` everything that Qualcomm's GenieX reads, in one flat folder.

    <model>/metadata.json          tells GenieX that this is a bundle, of what model and kind
    <model>/tokenizer.json         a copy, with tokenizer_config.json: GenieX takes the files of one folder only
    <model>/genie_config.json      names the binaries and, from then on, this tokenizer

`geniex pull local/NAME --local-path FOLDER` takes the folder (or that of one chip) as it is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..files.full_disk import writes

CONFIG, METADATA = "genie_config.json", "metadata.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def write_geniex(directory: Path, data: Mapping[str, Any]) -> list[str]:
    """Complete every folder with a Genie config, of the bundle of the manifest `data`; the folders' names."""
    done = []
    for model, folder in _folders(data):
        config = directory / folder / CONFIG
        if not config.is_file():
            continue
        tokenizer = data["tokenizers"][data["models"][model]["tokenizer"]]["directory"]
        for name in _TOKENIZER:
            if (directory / tokenizer / name).is_file():
                with writes(directory / folder / name):
                    shutil.copyfile(directory / tokenizer / name, directory / folder / name)
        stated = json.loads(config.read_text(encoding="utf-8"))
        stated["dialog"]["tokenizer"]["path"] = _TOKENIZER[0]
        _write(config, stated)
        _write(directory / folder / METADATA, {"model_id": model, "genie": {"supports_vision": False}})
        done.append(folder)
    return done


def _write(path: Path, stated: Mapping[str, Any]) -> None:
    with writes(path):
        path.write_text(json.dumps(stated, indent=2) + "\n", encoding="utf-8")


def _folders(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Model and folder of every NPU binary, each once."""
    found: dict[tuple[str, str], None] = {}
    for part in data["parts"].values():
        for entry in (part, *part.get("chips", {}).values()):
            found[part["model"], PurePosixPath(entry["file"]).parent.as_posix()] = None
    yield from found
