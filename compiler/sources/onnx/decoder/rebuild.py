"""The architecture and weights of a recognised decoder, and the semantic graph built from them.

Where a `config.json` beside the file describes the same decoder, its architecture is taken as it is: it knows end
tokens, windows and the longest context, which no graph states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ....diagnostics.diagnostic import PlanError
from ....ir.decoder_arch import ATTENTION_LINEARS, DecoderArch
from ....ir.rope import RopeSpec
from ....ir.stored_integers import STORED, stored_integers
from ....ir.weights import Weight, cast
from ...finite_rows import finite
from ...hf.read_decoder_arch import read_arch
from .patterns import Norm
from .projections import Projection
from .recognise import Found, Layer
from .rotary import Rotation
from .walk import decline

UNSTATED = 1 << 20  # positions of a decoder whose file does not say how many it was trained on
_CLOSE = 2e-6  # of float32 frequencies that were computed in float32
_COMPARED = 1 << 26  # bytes of a block of the embedding beside the head
_DIGITS = (1, 2, 3, 4, 6)


def architecture(found: Found, windows: Sequence[int | None], folder: Path) -> DecoderArch:
    """What the decoder is; `windows`: of its layers, None for none; `folder`: where its file lies."""
    first = found.layers[0]
    table, head = found.embedding, found.head
    vocab, hidden = table.dims
    if head.weight.dims != (vocab, hidden):
        decline(f"a head of {head.outputs} outputs over a vocabulary of {vocab}", head.node)
    if head.bias is not None:
        decline("a head with a bias", head.node)
    heads = first.query.outputs // first.head_dim
    if not first.kv_heads or heads % first.kv_heads or first.head_dim % 2:
        decline(f"{heads} heads of {first.head_dim} channels over {first.kv_heads} heads of keys", head.node)
    biased = tuple(name for name, linear in zip(ATTENTION_LINEARS, _attention(first), strict=True) if linear.bias)
    scale, turns = first.scale, _turns(found, windows)
    arch = DecoderArch(
        family=_family(biased, first),
        layers=len(found.layers),
        hidden=hidden,
        intermediate=first.gate.outputs,
        heads=heads,
        kv_heads=first.kv_heads,
        head_dim=first.head_dim,
        vocab=vocab,
        max_positions=UNSTATED,
        rms_eps=_decimal(found.norm.epsilon),
        tied=_same(head.weight, table),
        attention_bias=biased,
        mlp_bias=first.gate.bias is not None,
        qk_norm=first.query_norm is not None,
        activation="silu" if first.activation == "silu" else "gelu_tanh",
        rope=turns.rope,
        bos=None,
        eos=(),
        window=turns.window,
        local=turns.local,
        local_rope=turns.local_rope,
        nope=tuple(at for at, layer in enumerate(found.layers) if layer.turns is None),
        attention_scale=None if _near(scale, first.head_dim**-0.5, table) else _decimal(scale),
        embedding_scale=_decimal(found.embedding_scale) if found.embedding_scale != 1.0 else 1.0,
        sandwich_norms=first.mlp_outer is not None,
    )
    _demand_alike(found, arch)
    return _as_config(arch, folder, turns.unsure)


def weights(found: Found, arch: DecoderArch, file: Path) -> dict[str, Weight]:
    """A lazy float32 weight [N, K] for each tensor of `arch`."""
    made: dict[str, Weight] = {"embed_tokens.weight": found.embedding, "norm.weight": found.norm.gain}
    if not arch.tied:
        made["lm_head.weight"] = found.head.weight
    for at, layer in enumerate(found.layers):
        prefix = f"layers.{at}"
        for name, norm in _norms(layer, arch).items():
            made[f"{prefix}.{name}.weight"] = norm.gain
        for name, linear in _linears(layer).items():
            made[f"{prefix}.{name}.weight"] = linear.weight
            if linear.bias is not None:
                made[f"{prefix}.{name}.bias"] = linear.bias
    return {name: _checked(name, made[name], shape, file) for name, shape in arch.tensors().items()}


def _checked(name: str, weight: Weight, shape: tuple[int, ...], file: Path) -> Weight:
    if tuple(weight.dims) != shape:
        decline(f"`{name}` would be {list(shape)}, and is {list(weight.dims)}")
    made = cast(weight, ir.DataType.FLOAT)
    made.name = name
    made, integers = finite(made, weight.name or name, file), stored_integers(weight)
    if integers is not None:
        STORED.set(made, integers)
    return made


def _attention(layer: Layer) -> tuple[Projection, ...]:
    return layer.query, layer.key, layer.value, layer.output


def _linears(layer: Layer) -> dict[str, Projection]:
    attention = dict(zip((f"self_attn.{name}" for name in ATTENTION_LINEARS), _attention(layer), strict=True))
    return {**attention, "mlp.gate_proj": layer.gate, "mlp.up_proj": layer.up, "mlp.down_proj": layer.down}


def _norms(layer: Layer, arch: DecoderArch) -> dict[str, Norm]:
    """The norms of a layer by their names."""
    mlp = "pre_feedforward_layernorm" if arch.sandwich_norms else "post_attention_layernorm"
    found = {
        "input_layernorm": layer.input_norm,
        mlp: layer.mlp_norm,
        "self_attn.q_norm": layer.query_norm,
        "self_attn.k_norm": layer.key_norm,
        "post_feedforward_layernorm": layer.mlp_outer,
    }
    if arch.sandwich_norms:
        found["post_attention_layernorm"] = layer.attention_outer
    return {name: norm for name, norm in found.items() if norm is not None}


def _family(biased: tuple[str, ...], layer: Layer) -> str:
    """The family of decoders whose layers look like this; only manifests name it."""
    if layer.mlp_outer is not None:
        return "gemma3_text"
    if layer.query_norm is not None:
        return "qwen3"
    return "qwen2" if biased == ("q_proj", "k_proj", "v_proj") else "llama"


def _demand_alike(found: Found, arch: DecoderArch) -> None:
    """Every layer has the norms, biases and numbers of the first; their shapes are checked with the weights."""
    first = found.layers[0]
    for at, layer in enumerate(found.layers):
        epsilons = {_decimal(norm.epsilon) for norm in (*_norms(layer, arch).values(), found.norm)}
        alike = (
            _norms(layer, arch).keys() == _norms(first, arch).keys()
            and (layer.attention_outer is None) == (layer.mlp_outer is None)
            and [x.bias is None for x in _linears(layer).values()] == [x.bias is None for x in _linears(first).values()]
            and (layer.activation, layer.head_dim, layer.kv_heads) == (first.activation, first.head_dim, first.kv_heads)
            and _near(layer.scale, first.scale, found.embedding)
        )
        biases = {name for name, linear in _linears(layer).items() if linear.bias is not None}
        if not alike or biases != {name for name in _linears(layer) if arch.has_bias(name)}:
            decline(f"layer {at} is of another kind than the first", layer.query.node)
        if epsilons != {arch.rms_eps}:
            decline(f"norms with different epsilons in layer {at}", layer.query.node)


@dataclass(frozen=True)
class _Turns:
    """Windows and rotary embeddings of all layers; `unsure`: how far off frequencies may be."""

    rope: RopeSpec
    window: int | None
    local: tuple[int, ...]
    local_rope: RopeSpec | None
    unsure: float


def _turns(found: Found, windows: Sequence[int | None]) -> _Turns:
    """One window, and one rotary embedding or two: then the layers with a window have one of them.

    Where the context is no longer than the window, the layers that turn by the smaller base are called local.
    """
    sizes = {window for window in windows if window is not None}
    if len(sizes) > 1:
        decline(f"windows of {' and '.join(map(str, sorted(sizes)))} positions")
    local = tuple(at for at, window in enumerate(windows) if window is not None)
    kinds: list[Rotation] = []
    for layer in found.layers:
        if layer.turns is not None and not any(layer.turns.same(kind) for kind in kinds):
            kinds.append(layer.turns)
    if len(kinds) > 2:
        decline(f"{len(kinds)} different rotary embeddings")
    specs = [_rope(kind) for kind in kinds] or [RopeSpec()]
    unsure = max((kind.unsure for kind in kinds), default=0.0)
    if len(kinds) < 2:
        return _Turns(specs[0], next(iter(sizes), None), local, None, unsure)
    inner = [tuple(at for at, one in enumerate(found.layers) if kind.same(one.turns)) for kind in kinds]
    at = inner.index(local) if local in inner else int(specs[1].theta < specs[0].theta)
    if local and local not in inner:
        decline("two rotary embeddings that are not those of layers with and without a window")
    return _Turns(specs[1 - at], next(iter(sizes), None), inner[at], specs[at], unsure)


def _rope(turns: Rotation) -> RopeSpec:
    """A rotary embedding by its base where one fits the frequencies, else with a factor for each."""
    frequencies = turns.frequencies
    if not (np.isfinite(frequencies).all() and (frequencies > 0).all()):
        decline("a rotary embedding whose frequencies are no positive numbers")
    size = 2 * len(frequencies)
    attention = 1.0 if turns.factor == 1.0 else _decimal(turns.factor)
    if size > 2:
        near = float(frequencies[-1]) ** (-size / (size - 2))
        for digits in _DIGITS:
            spec = RopeSpec(theta=float(f"{near:.{digits - 1}e}"), attention_factor=attention)
            if np.allclose(spec.inverse_frequencies(size), frequencies, rtol=_CLOSE, atol=turns.unsure):
                return spec
    plain = np.array(RopeSpec().inverse_frequencies(size))
    return RopeSpec(kind="factors", attention_factor=attention, factors=tuple(float(f) for f in plain / frequencies))


def _near(scale: float, other: float, table: Weight) -> bool:
    """Whether two factors of scores are one number: in 16 bits exporters round it once for q and once for k."""
    return bool(np.isclose(scale, other, rtol=1e-5 if table.dtype == ir.DataType.FLOAT else 4e-3))


def _decimal(number: float) -> float:
    """The shortest decimal that is this float32: 1e-06, not 9.999999974752427e-07."""
    return float(str(np.float32(number)))


def _same(head: Weight, table: Weight) -> bool:
    """Whether the head is the embedding, stored once or twice."""
    if table is head:
        return True
    blocks = table.blocks(_COMPARED)  # a head is stored the other way round, and is read whole for each block
    return all(np.array_equal(block, head.rows(at, at + len(block))) for at, block in blocks)


def _as_config(arch: DecoderArch, folder: Path, unsure: float) -> DecoderArch:
    """The architecture of the `config.json` in `folder`, if there is one that describes the same decoder."""
    if not (folder / "config.json").is_file():
        return arch
    try:
        stated = read_arch(folder)
    except PlanError:
        return arch
    common = replace(
        stated, family=arch.family, max_positions=arch.max_positions, bos=None, eos=(), rope=arch.rope,
        window=arch.window, local=arch.local, local_rope=arch.local_rope, attention_scale=arch.attention_scale,
        embedding_scale=arch.embedding_scale, rms_eps=arch.rms_eps,
    )  # fmt: skip
    alike = (
        common == arch
        and np.float32(stated.rms_eps) == np.float32(arch.rms_eps)  # 1e-05, or what is left of it in 32 bits
        and arch.window in (None, stated.window)
        and _same_turns(stated.rope, arch.rope, arch.head_dim, unsure)
        and _same_turns(stated.local_rope or stated.rope, arch.local_rope or arch.rope, arch.head_dim, unsure)
        and np.isclose(stated.embedding_scale, arch.embedding_scale, rtol=4e-3)
    )
    return stated if alike else arch


def _same_turns(stated: RopeSpec, found: RopeSpec, size: int, unsure: float) -> bool:
    pair = stated.inverse_frequencies(size), found.inverse_frequencies(size)
    return bool(np.allclose(*pair, rtol=_CLOSE, atol=unsure))
