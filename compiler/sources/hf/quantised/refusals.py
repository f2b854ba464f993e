"""E0335: what is quantised in a way that edgec does not read, and the patterns of modules a config may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from ....diagnostics.diagnostic import fail
from ..safetensors_index import StoredTensor

_AS_FLOATS = "start from the float checkpoint that it was made from, and let the plan quantise it"
_REPEATED_GROUP = re.compile(r"\)[*+{]")  # `(a+)+` takes time that doubles with each letter
_LONGEST = 1000
# how a tensor's name ends -> what wrote it; a name later in the table is less particular
_WRITTEN_BY = {
    ".weight_packed": "compressed-tensors",
    ".qweight": "GPTQ or AWQ",
    ".quant_map": "bitsandbytes",
    ".absmax": "bitsandbytes",
    ".weight_scale_inv": "8-bit floats in blocks",
    ".weight_scale": "8-bit floats or integers",
    ".SCB": "bitsandbytes",
    "_proj_blocks": "mxfp4",
}


def refuse(what: str, place: str) -> NoReturn:
    """The checkpoint is quantised as `what` says, and that is not read."""
    read = "edgec reads the integers of GPTQ, AWQ and compressed-tensors (`pack-quantized`) checkpoints"
    fail("E0335", f"the checkpoint is quantised already, {what} ({place})", help=f"{read}; else {_AS_FLOATS}")


def refuse_unstated(stored: Mapping[str, StoredTensor], folder: Path) -> None:
    """Fail if tensors show integers or scales that no config speaks of."""
    for end, method in _WRITTEN_BY.items():
        name = next((name for name in stored if name.endswith(end)), None)
        if name is not None:
            message = f"the checkpoint in `{folder}` is quantised already, by {method} as `{stored[name].name}` shows"
            help = "add the `quantization_config` that belongs to it to config.json (older tools write "
            help += f"quantize_config.json or quant_config.json beside it); else {_AS_FLOATS}"
            fail("E0335", f"{message}, and no config says how", help=help)


def pattern(text: str, place: str) -> re.Pattern[str]:
    """A regular expression of a config, compiled."""
    if len(text) > _LONGEST or _REPEATED_GROUP.search(text):
        refuse(f"with a pattern of modules that repeats a group or is too long, `{text:.60}`", place)
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as problem:
        refuse(f"with a pattern of modules that cannot be read, `{text:.60}`: {problem}", place)
