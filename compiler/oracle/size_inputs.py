"""Integer inputs that end up as a size: how often a Loop runs, how long a Range is, how many rows an Expand makes.

Numbers over the range of their type would be gigabytes there, or hours.
"""

from __future__ import annotations

import onnx_ir as ir

_SIZES = {
    "Loop": (0,),
    "Range": (0, 1, 2),
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Tile": (1,),
    "Reshape": (1,),
    "OneHot": (1,),
    "Resize": (3,),
    "Pad": (1,),
    "CenterCropPad": (1,),
    "TopK": (1,),
    "MaxUnpool": (2,),
    "Col2Im": (1, 2),
    "DFT": (1,),
    "STFT": (1, 3),
    "HannWindow": (0,),
    "HammingWindow": (0,),
    "BlackmanWindow": (0,),
    "MelWeightMatrix": (0, 1, 2),
}
_NUMBERS_LOST = ("Shape", "Size", "NonZero")  # what they make does not grow with the numbers they read


def is_size(value: ir.Value) -> bool:
    """Whether an op makes as much as `value`, or an integer computed from it, says."""
    waiting, seen = [value], {value}
    while waiting:
        for use in waiting.pop().uses():
            node = use.node
            if use.idx in _SIZES.get(node.op_type, ()):
                return True
            made = [] if node.op_type in _NUMBERS_LOST else [v for v in node.outputs if _may_be_integer(v)]
            if node.op_type == "Loop" and use.idx > 1:  # what is carried, as the body reads it
                inputs = node.attributes["body"].as_graph().inputs
                made += inputs[use.idx : use.idx + 1]
            fresh = [one for one in made if one not in seen]
            seen.update(fresh)
            waiting += fresh
    return False


def _may_be_integer(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_integer()
