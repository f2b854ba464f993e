"""What a folder is that is given as a model, before any of it is believed: a model, an adapter, a cache of the Hub.

Errors for what edgec would compile as something else than `transformers` loads; warnings for what it leaves out.
"""

from __future__ import annotations

import json
from pathlib import Path

from ...diagnostics.diagnostic import Diagnostic, fail
from ..tokenizer.text_config import GENERATION, read_sampling, read_text_config
from .config_file import read_json

_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_MERGE = "merge it: `peft.AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(OTHER)`"


def refuse_other_folders(folder: Path) -> None:
    """Fail on a folder that is no model, or a model with an adapter that `transformers` would load with it."""
    adapter = next((name for name in _ADAPTER if (folder / name).exists()), None)
    config = folder / "config.json"
    if adapter is not None and (config.exists() or _has_weights(folder)):
        message = f"`{folder}` holds an adapter (`{adapter}`) beside its model, and edgec reads the model alone"
        help = f"{_MERGE}; or remove the adapter's files, if the model alone is meant"
        fail("E0339", message, help=help)
    if adapter is not None:
        base = read_json(folder / _ADAPTER[0]).get("base_model_name_or_path") if adapter == _ADAPTER[0] else None
        of = f" of `{base}`" if isinstance(base, str) else ""
        fail("E0339", f"`{folder}` holds an adapter (`{adapter}`){of} and no model", help=_MERGE)
    if config.exists():
        return
    snapshots = sorted(path.name for path in (folder / "snapshots").glob("*") if path.is_dir())
    if snapshots:
        message = f"`{folder}` is a model's cache of the Hub, not the model's folder"
        fail("E0330", message, help=f"give the folder of the snapshot: `{folder.name}/snapshots/{snapshots[-1]}`")


def _has_weights(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("model.safetensors", "model.safetensors.index.json"))


def left_out(folder: Path) -> list[Diagnostic]:
    """W0330 for each thing that the model's files ask for and that edgec's runner or graph does not have."""
    found = []
    config = read_json(folder / "config.json")
    if config.get("auto_map"):
        message = "config.json names code of the model's own (`auto_map`), which edgec does not run"
        help = f"the graph is that of `{config.get('model_type')}`: compare its text with the model's own"
        found.append(Diagnostic("W0330", message, help=help, severity="warning"))
    read_text_config(folder)
    for key, value in read_sampling(folder).left_out.items():
        shown = json.dumps(value)
        message = f"`{key}` = {shown[:40]} in {GENERATION} is left out: edgec's runner does not apply it"
        help = "the runtime on the device has to, if the text is to be the model's own"
        found.append(Diagnostic("W0330", message, help=help, severity="warning"))
    return found
