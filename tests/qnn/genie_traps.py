"""What makes Genie answer nonsense, planted into the facts of a good deployment; and the words that name it.

A trap changes a dict of `config` (genie_config.json), `arch` and `tokenizer` (the manifest's) and `binaries` (what is
read back of the context binaries, by file).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgec.targets.qnn.htp.context_binary import TensorSpec

Plant = Callable[[dict[str, Any]], None]
HTP = ("engine", "backend", "QnnHtp")
BINARIES = ("engine", "model", "binary", "ctx-bins")


def put(*path: str, to: Any) -> Plant:
    """Another value at this place."""

    def plant(parts: dict[str, Any]) -> None:
        held: Any = parts
        for key in path[:-1]:
            held = held[key]
        held[path[-1]] = to

    return plant


def config(*path: str, to: Any) -> Plant:
    """Another value in genie_config.json."""
    return put("config", "dialog", *path, to=to)


def tensor(called: str, only: int | None = None, **changes: Any) -> Plant:
    """A tensor of every graph, or of one, that is otherwise: a value, or a function of what it was."""

    def changed(spec: TensorSpec) -> TensorSpec:
        if spec.name != called:
            return spec
        return replace(spec, **{k: v(getattr(spec, k)) if callable(v) else v for k, v in changes.items()})

    def plant(parts: dict[str, Any]) -> None:
        for file, info in parts["binaries"].items():
            graphs = dict(info.graphs)
            for key in [*graphs] if only is None else [[*graphs][only]]:
                inputs, outputs = (tuple(map(changed, side)) for side in (graphs[key].inputs, graphs[key].outputs))
                graphs[key] = replace(graphs[key], inputs=inputs, outputs=outputs)
            parts["binaries"][file] = replace(info, graphs=graphs)

    return plant


def binary(**changes: Callable[[Any], Any]) -> Plant:
    """What a binary says of itself as a whole."""

    def plant(parts: dict[str, Any]) -> None:
        for file, info in parts["binaries"].items():
            parts["binaries"][file] = replace(info, **{k: v(getattr(info, k)) for k, v in changes.items()})

    return plant


def both(*plants: Plant) -> Plant:
    """Several changes that are one trap."""

    def plant(parts: dict[str, Any]) -> None:
        for one in plants:
            one(parts)

    return plant


def _without_angles(parts: dict[str, Any]) -> None:
    parts["config"]["dialog"]["engine"]["model"].pop("positional-encoding")


def scaled(by: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The quantization with another scale."""
    return lambda was: {**was, "scale": was["scale"] * by}


def swapped(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The last two axes exchanged."""
    return (*shape[:-2], shape[-1], shape[-2])


ANGLES = ("engine", "model", "positional-encoding")
LINEAR = {"rope-type": "linear", "factor": 2.0}
OF_LINEAR = put("arch", "rope", "kind", to="linear")
OTHER_TOKENIZER = "../tokenizer-draft/tokenizer.json"

TRAPS: dict[str, tuple[Plant, str]] = {
    # the angles
    "the base of the angles": (config(*ANGLES, "rope-theta", to=500000), "`rope-theta` is 500000, the model's is"),
    "the base left out": (_without_angles, "so Genie takes a `rope-theta` of 10000"),
    "half of the angles": (config(*ANGLES, "rope-dim", to=8), "`rope-dim` is 8"),
    "scaling left out": (put("arch", "rope", "kind", to="llama3"), "scaled as `default`, the model's as `llama3`"),
    "scaling of another model": (config(*ANGLES, "rope-scaling", to=LINEAR), "scaled as `linear`"),
    "another factor": (both(OF_LINEAR, config(*ANGLES, "rope-scaling", to=LINEAR)), "are not the model's"),
    "other frequencies": (put("arch", "rope", "inverse_frequencies", to=[1.0] * 16), "are not the model's"),
    "a factor on the angles": (put("arch", "rope", "attention_factor", to=1.2), "cos and sin are times 1.2"),
    "angles of whole heads": (
        tensor("position_ids_cos", shape=lambda s: (*s[:-1], 2 * s[-1])),
        "`position_ids_cos` is [1, 1, 1, 32], angles of this graph [1, 1, 1, 16]",
    ),
    "angles that are cut": (tensor("position_ids_sin", quantization=scaled(0.5)), "a cosine -1 to 1"),
    # the mask
    "a mask that hides nothing": (tensor("attention_mask", quantization=scaled(0.01)), "not below every score"),
    "a mask that is turned": (
        tensor("attention_mask", quantization=lambda q: {**q, "offset": 0}),
        "an open position of `attention_mask` counts",
    ),
    "a mask without a scale": (tensor("attention_mask", quantization=None), "is uint16 without a scale"),
    "a mask of three axes": (tensor("attention_mask", shape=lambda s: s[1:]), "a mask of this graph"),
    # tokens
    "the vocabulary": (config("context", "n-vocab", to=1000), "`n-vocab` is 1000"),
    "a BOS that the model does not want": (config("context", "bos-token", to=5), "`bos-token` is 5"),
    "a BOS left out": (put("tokenizer", "add_bos", to=True), "`bos-token` is -1"),
    "another EOS": (config("context", "eos-token", to=[1]), "`eos-token` is [1]"),
    "another tokenizer": (config("tokenizer", "path", to=OTHER_TOKENIZER), "its tokenizer is `tokenizer-draft/"),
    "ids in 64 bits": (tensor("input_ids", dtype="int64"), "`input_ids` is int64"),
    "ids under another name": (tensor("input_ids", name="tokens"), "has no input `input_ids`"),
    "logits of the last token": (tensor("logits", shape=lambda s: (1, 1, s[-1])), "has 1 rows for 8 tokens"),
    "logits of another model": (tensor("logits", shape=lambda s: (*s[:-1], s[-1] - 1)), "are no rows of"),
    # graphs and files
    "equal tokens and context": (binary(graphs=lambda g: {**g, "again": next(iter(g.values()))}), "both take"),
    "the context": (config("context", "size", to=128), "`size` of the context is 128"),
    "a binary that is not there": (config(*BINARIES, to=["other.bin"]), "`ctx-bins` names `target/other.bin`"),
    "a binary left out": (config(*BINARIES, to=[]), "`ctx-bins` does not name `target/target_ctx.bin`"),
    "another chip": (binary(soc_model=lambda _soc: 69), "is for SoC 69, the deployment for 57"),
    "VTCM of one graph": (binary(vtcm_bytes=lambda v: {**v, next(iter(v)): 4 << 20}), "takes 4 MB of VTCM"),
    "a dialog that wants a draft": (config("type", to="spd"), "the dialog is of type `spd`"),
    "the backend of another chip": (
        config("engine", "backend", "type", to="QnnGpu"),
        "the backend is of type `QnnGpu`",
    ),
    "a model library": (config("engine", "model", "type", to="library"), "the model is of type `library`"),
    "positions that are no angles": (config(*ANGLES, "type", to="absolute"), "encoding is of type `absolute`"),
    "a binary named twice": (config(*BINARIES, to=["target_ctx.bin"] * 2), "names `target/target_ctx.bin` 2 times"),
    "logits without a scale": (tensor("logits", quantization=None), "`logits` is uint16 without a scale"),
    # the cache
    "the cache's width": (config(*HTP, "kv-dim", to=64), "`kv-dim` is 64"),
    "an input of the cache": (tensor("past_key_1_in", name="past.1.key"), "the cache has no `past_key_1_in`"),
    "an output of the cache": (tensor("past_value_0_out", name="present"), "the cache has no `past_value_0_out`"),
    "keys as values lie": (tensor("past_key_0_in", shape=swapped), "`past_key_0_in` is ["),
    "the cache's capacity": (
        tensor("past_value_1_in", shape=lambda s: (*s[:2], s[2] + 1, s[3])),
        "`past_value_1_in` is [",
    ),
    "the cache's type": (tensor("past_key_1_out", dtype="uint16"), "is uint16 of scale"),
    "the cache's scale in one graph": (tensor("past_value_1_in", only=1, quantization=scaled(2)), "`past_value_1_"),
    # the file
    "a config that is none": (lambda parts: parts["config"].pop("dialog"), "is not as edgec writes it"),
}
