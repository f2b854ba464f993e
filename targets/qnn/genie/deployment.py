"""A Genie deployment read from a bundle, for the check of what Genie assumes (`contract.py`)."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from ....compiler.bundle.manifest import Manifest
from ....compiler.diagnostics.diagnostic import EngineError
from ..htp.context_binary import read
from .config import CONFIG
from .contract import Deployment, contract_problems


def deployment_problems(manifest: Manifest, model: str) -> list[str]:
    """What is wrong with the deployment of `model`, on the device whose files `manifest` names; empty without one."""
    parts = [manifest.part(name) for name in manifest.parts_of(model)]
    own = [part for part in parts if part["target"] == "qnn"]
    folders = {PurePosixPath(part["file"]).parent.as_posix() for part in own}
    config = next((f"{folder}/{CONFIG}" for folder in folders if f"{folder}/{CONFIG}" in manifest.files), None)
    if config is None:
        return []
    tokenizer, arch = manifest.tokenizer(model), manifest.model(model).get("arch")
    if tokenizer is None or arch is None or len(own) < len(parts):
        return [f"there is a {CONFIG}, and Genie runs whole language models with a tokenizer only"]
    chip = own[0]["details"]["chip"]
    try:
        binaries = {part["file"]: read(manifest.bundle / part["file"], soc_model=chip["soc_model"]) for part in own}
        stated = json.loads((manifest.bundle / config).read_text(encoding="utf-8"))
    except EngineError as error:
        return [diagnostic.message for diagnostic in error.diagnostics]
    except (ValueError, RecursionError) as error:
        return [f"{CONFIG} is not JSON: {error}"]
    folder = PurePosixPath(config).parent.as_posix()
    hashes = {name: entry["sha256"] for name, entry in manifest.files.items()}
    made = Deployment(stated, folder, hashes, arch, tokenizer, chip, binaries)
    return [f"for Genie, {problem}" for problem in contract_problems(made)]
