"""What the conformance table of HTP distinguishes: which shape entries are numbers, which attributes are settled.

A settled attribute is refused at other values, or reaches the engine as something else that the shape states. Every
other attribute of an op is part of the shape by itself (`compiler/emit/conformance/op_class.py`).
"""

from __future__ import annotations

from ....compiler.emit.conformance.op_class import ClassRule

_LAST = "only the last axis is taken"
_WINDOW = {"auto_pad": "emitted as explicit pads"}
_NORM = {"axis": _LAST}

CLASSES = ClassRule(
    numbers=frozenset(
        {
            "tokens", "rows", "size", "k", "n", "m", "context", "heads", "kv_heads", "head_dim", "vocab", "elements",
            "channels", "inputs", "groups", "window", "epsilon", "alpha",
        }
    ),
    settled={
        "Attention": {
            "is_causal": "refused",
            "softcap": "refused",
            "qk_matmul_output_mode": "refused",
            "q_num_heads": "of rank 3, which is refused",
            "kv_num_heads": "of rank 3, which is refused",
            "scale": "multiplied into the queries",
        },
        "AveragePool": _WINDOW,
        "Cast": dict.fromkeys(("to", "saturate", "round_mode"), "every float is fp16: nothing is emitted"),
        "Concat": {"axis": "the column axis, counted from the front"},
        "Conv": {**_WINDOW, "group": "the columns depthwise and groups"},
        "Dropout": {"seed": "nothing is emitted"},
        "Flatten": {"axis": "the static shape is emitted"},
        "Gather": {"axis": "only axis 0 is taken"},
        "Gemm": {
            "alpha": "refused unless 1",
            "beta": "refused unless 1, or without a bias",
            "transA": "refused",
            "transB": "the weight is stored as HTP wants it",
        },
        "LayerNormalization": _NORM,
        "MaxPool": {**_WINDOW, "storage_order": "of the indices, which are refused"},
        "RMSNormalization": _NORM,
        "ReduceMean": {"noop_with_empty_axes": "only the last axis is taken, never no axis"},
        "Reshape": {"allowzero": "the static shape is emitted"},
        "RotaryEmbedding": {
            "interleaved": "refused",
            "num_heads": "of rank 3, which is refused",
            "rotary_embedding_dim": "the column turned",
        },
        "Softmax": {"axis": _LAST},
        "Split": {"axis": "the column axis of its slices", "num_outputs": "the slices' shapes"},
        "Swish": {"alpha": "refused unless 1"},
        "Transpose": {"perm": "the column perm"},
    },
)  # fmt: skip
